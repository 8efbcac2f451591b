"""One thread of computation, so that bits do not depend on how a library divides a product among several."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread.

    Two threads cut a matrix between its rows, and round otherwise at the cut: with them, a transformer's states changed
    with the place of a user in the batch. torch's number of threads is the process's, so who has to change it
    waits for others that do. Ray gives a replica of one CPU or less one thread; nobody waits there.
    """
    if torch.get_num_threads() == 1:
        yield
        return
    with _TURN:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
