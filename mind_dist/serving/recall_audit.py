"""Some requests, searched once more in the background by the index and exactly: how much the index finds, as a metric."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Sequence

import numpy as np

from mind_dist.encoder import InterestEncoder
from mind_dist.errors import MindDistError
from mind_dist.index.vector_store import Vectors, VectorStore
from mind_dist.observability import Metrics
from mind_dist.retrieval.recall import found_share

LIMIT = 50
"""Items asked for: the recall is recall@50 of exact search."""

_WAITING = 4
"""Requests that wait to be audited; more are left out, so a busy service is not made busier."""


class RecallAudit:
    """Audits a share of requests in a thread of its own, one at a time.

    It looks at the index alone, without filters: whether items are lost from it, or found no more.

    Args:
        store: The index.
        metrics: Where recalls go.
        share: Share of requests.
        random: Draws them.
    """

    def __init__(self, store: VectorStore, metrics: Metrics, share: float, draw: random.Random | None = None) -> None:
        self._store = store
        self._metrics = metrics
        self._share = share
        self._random = draw or random.Random()
        self._waiting: queue.Queue[tuple[InterestEncoder, Vectors] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="recall-audit", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, encoder: InterestEncoder, interests: Sequence[Vectors]) -> None:
        """Take some of these requests into account; returns at once.

        Args:
            encoder: The version that answered.
            interests: Each request's.
        """
        for one in interests:
            if len(one) and self._random.random() < self._share and not self._waiting.full():
                self._waiting.put_nowait((encoder, np.array(one)))

    def close(self, timeout_s: float) -> None:
        """End when what waits is done."""
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            encoder, interests = asked
            try:
                hits = self._store.search_items(encoder.model_version, interests, LIMIT)
            except MindDistError:  # the request itself has told of it, or the version is gone by now
                continue
            share = found_share(interests, hits, encoder.item_keys, encoder.item_vectors, LIMIT)
            self._metrics.observe("mind_dist_ann_recall", share, model_version=encoder.model_version)
