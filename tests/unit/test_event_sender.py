"""Events of requests are stored as soon as there is a connection, whatever was wrong before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mind_dist.errors import ConfigError, MindDistError, ServiceUnavailable
from mind_dist.serving.event_sender import EventSender, SentEvent


class KeptEvents:
    """A log that is a list."""

    def __init__(self) -> None:
        self.users: list[int | str] = []

    def send(self, user_id: int | str, *_fields: Any, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        assert not headers
        self.users.append(user_id)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_a_wrong_setting_is_told_and_the_log_reached_once_it_is_right() -> None:
    log, problem = KeptEvents(), ConfigError("MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD", "is missing")
    wrong: list[MindDistError] = [problem, problem]

    def connect() -> KeptEvents:
        if wrong:
            raise wrong.pop()
        return log

    sender = EventSender(connect, "kafka:9092", pause_s=0.2)
    sender.start()
    reasons: set[str] = set()
    deadline_s = time.monotonic() + 20
    while not log.users:
        assert time.monotonic() < deadline_s, reasons
        try:
            sender.send([SentEvent(7, 1, 1, "click")])
        except ServiceUnavailable as error:
            reasons.add(str(error).partition("(")[2])
            time.sleep(0.01)
    sender.close(5)
    assert log.users == [7]
    assert "MIND_DIST_KAFKA_SASL_PLAIN_PASSWORD: is missing)" in reasons
