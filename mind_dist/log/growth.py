"""Whether a topic has grown: asked when a record is not where Kafka's partitioner puts it among the partitions that are known."""

from __future__ import annotations

import time
from collections.abc import Callable

_SURELY_OTHERS = 100
"""After so many records elsewhere, in a topic that has not grown, another partitioner places them: seldom ask again."""
_ASK_OTHERS_EVERY_S = 10.0


class Growth:
    """Asks the broker no more often than it must.

    Args:
        num_partitions: As many as are known.
        count_now: Asks how many there are now.
        clock: Seconds that never go back.
    """

    def __init__(
        self, num_partitions: int, count_now: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._known = num_partitions
        self._count_now = count_now
        self._clock = clock
        self._ask_at_s = clock()
        self.num_elsewhere = 0

    def met_elsewhere(self) -> int:
        """Count a record that is elsewhere, and return how many partitions there are, as far as is known."""
        if self.num_elsewhere < _SURELY_OTHERS or self._clock() >= self._ask_at_s:
            self._ask_at_s = self._clock() + _ASK_OTHERS_EVERY_S
            self._known = max(self._known, self._count_now())
        self.num_elsewhere += 1
        return self._known
