"""What is stored beside a partition's position: how much poison there was lately, and why nothing more of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

_LONGEST_REASON = 1000
"""A broker takes 4,096 bytes beside a position."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the next owner of a partition must know.

    Attributes:
        counted: How many of the last records were poison, and how many these are.
        stopped: Why nothing more is taken until an operator acts; empty otherwise.
        forgiven_to: Poison below this position does not count: an operator has let it go on.
    """

    counted: tuple[int, int] = (0, 0)
    stopped: str = ""
    forgiven_to: int = 0

    def to_text(self) -> str:
        """Return it as a broker keeps it; empty where there is nothing to tell."""
        if not self.counted[0] and not self.stopped and not self.forgiven_to:
            return ""
        told = {"poison": self.counted, "stopped": self.stopped[:_LONGEST_REASON], "forgiven_to": self.forgiven_to}
        return orjson.dumps(told).decode()

    @classmethod
    def of_text(cls, text: str) -> Note:
        """Return what a broker has kept; a text that is none of ours tells nothing."""
        try:
            told = orjson.loads(text) if text else {}
            if not told:
                return cls()
            num_poison, num_records = told["poison"]
            return cls((int(num_poison), int(num_records)), str(told["stopped"]), int(told.get("forgiven_to", 0)))
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError):
            return cls()
