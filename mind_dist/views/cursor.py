"""Where a view is in one partition of the log of states."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Cursor:
    """Where a view is in one partition.

    Attributes:
        position: States below it are in the rows.
        stored: What the log has of that.
        redo_at: When what changed from `redo_from` on is written once more, in seconds that never go back: an owner before may
            still have been writing. None when it is done, or need not be.
        redo_from: A position.
        shown: Rows of the states below it have been written for so long that reads show them.
        shows_next: So will be those of the states below it…
        shows_at: … at this time, in seconds that never go back.
    """

    position: int
    stored: int
    redo_at: float | None = None
    redo_from: int = 0
    shown: int = 0
    shows_next: int = 0
    shows_at: float = 0.0

    @property
    def note(self) -> str:
        """What a successor must know: from where it has to write once more, too."""
        return str(self.redo_from) if self.redo_at is not None else ""

    def shown_at(self, now: float, after_s: float) -> int:
        """Return the position up to which rows were written at least `after_s` ago, as far as calls of this can tell."""
        if now >= self.shows_at:
            self.shown, self.shows_next, self.shows_at = self.shows_next, self.position, now + after_s
        return min(self.shown, self.position)
