"""Composition roots for `ray job submit -- python -m jobs.NAME`: parse, build, call."""

import sys
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback, but for Ctrl-C while a job is being imported: there is nothing to say of that."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
