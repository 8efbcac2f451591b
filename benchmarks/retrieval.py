"""Candidates for users by `Recommender`, beside the same two calls of pymilvus alone, in turn, in one run.

python -m benchmarks.retrieval                                  # 100,000 items, minutes
python -m benchmarks.retrieval --items 100000 1000000           # 10⁶ items, half an hour of two cores

Milvus is the one that `MIND_DIST_MILVUS` names, or a standalone server started here. Items lie in clusters, and a user's
interests near items, as trained vectors do; the vectors are random. "Raw" is what anybody needs at least: one `get` of
the user's row, and one `search` with all of the interests for as many items. Merging them is left to ours alone. Recall is
of the exact best, by brute force, for one interest each: at first, and after `--upserts` items were written anew.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from rich.table import Table

from jobs.cli import run
from jobs.tables import print_readable
from mind_dist.config import MilvusConfig, ServingConfig
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import ItemRows, UserRow, Vectors, VersionInfo
from mind_dist.observability import InMemoryMetrics
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.requests import RetrieveRequest
from mind_dist.strict_json import to_json

_CHUNK = 50_000
_RECALL_LIMIT = 50
_RECALL_QUERIES = 200
_HISTORY = 50
_BOUNDED_S = 5.0
"""Bounded reads may be so old."""


@dataclass(frozen=True)
class Retrieval:
    """Measure retrieval beside raw pymilvus."""

    items: tuple[int, ...] = (100_000,)
    """Sizes of the catalog."""
    clients: tuple[int, ...] = (1, 8, 32)
    """Threads that ask at once."""
    dim: int = 64
    """Width of an item vector."""
    num_interests: int = 4
    """Interests of a user."""
    users: int = 2_000
    """Users with a row."""
    limit: int = 100
    """Candidates asked for."""
    rounds: int = 4
    """How often ours and raw take turns."""
    round_s: float = 3.0
    """How long each turn lasts."""
    upserts: int = 100_000
    """Items written anew, for the second recall; 0 for none."""
    output: Path = Path("reports/retrieval.json")
    """Where the rows are written."""


@dataclass
class Asked:
    """What clients saw: the time of each request, in ms, and how long they asked, in s."""

    times_ms: list[float] = field(default_factory=list)
    asked_s: float = 0.0

    @property
    def p50_ms(self) -> float:
        """Return the median."""
        return round(float(np.median(self.times_ms)), 2)

    @property
    def qps(self) -> float:
        """Return requests a second."""
        return round(len(self.times_ms) / self.asked_s, 1)


class World:
    """A version in Milvus with clustered items, and users near some of them."""

    def __init__(self, uri: str, num_items: int, job: Retrieval) -> None:
        self.job = job
        self.random = np.random.default_rng(17)
        self.version = f"bench{uuid.uuid4().hex[:8]}"
        self.store = MilvusVectorStore(uri, MilvusConfig(), deployment=self.version)
        self.client = MilvusClient(uri, timeout=10)
        self.centers = _normal(self.random.standard_normal((max(16, num_items // 500), job.dim)))
        self.vectors = self.near(self.random.integers(len(self.centers), size=num_items))
        info = VersionInfo(
            self.version, job.dim, job.num_interests, "cosine", "bench://", _HISTORY, num_items=num_items
        )
        self.store.create_version(info)
        self.write(np.arange(num_items))
        self.store.settle_items(self.version)
        self.write_users()
        self.store.activate(self.version)

    def near(self, clusters: np.ndarray[Any, Any]) -> Vectors:
        """Return a vector near the middle of each cluster."""
        noise = self.random.standard_normal((len(clusters), self.job.dim)) * (0.7 / np.sqrt(self.job.dim))
        return _normal(self.centers[clusters] + noise)

    def write(self, items: np.ndarray[Any, Any]) -> None:
        """Upsert items with the vectors that they have here."""
        for start in range(0, len(items), _CHUNK):
            part = items[start : start + _CHUNK]
            self.store.upsert_items(self.version, ItemRows(part, self.vectors[part]))

    def write_users(self) -> None:
        """Give users interests, and histories."""
        k = self.job.num_interests
        clusters = self.random.integers(len(self.centers), size=self.job.users * k)
        interests = self.near(clusters).reshape(self.job.users, k, self.job.dim)
        histories = self.random.integers(len(self.vectors), size=(self.job.users, _HISTORY))
        weights, times = np.full(k, 1 / k, dtype=np.float32), np.arange(_HISTORY)
        rows = [UserRow(u, interests[u], weights, histories[u], times) for u in range(self.job.users)]
        self.store.upsert_users(self.version, rows)

    def recall(self) -> float:
        """Return the share of the exact best items that a search finds."""
        queries = self.near(self.random.integers(len(self.centers), size=_RECALL_QUERIES))
        exact = np.argpartition(-(queries @ self.vectors.T), _RECALL_LIMIT, axis=1)[:, :_RECALL_LIMIT]
        found = self.store.search_items(self.version, queries, _RECALL_LIMIT)
        hits = [len(np.intersect1d(best, hit.keys)) for best, hit in zip(exact, found, strict=True)]
        return round(float(np.mean(hits)) / _RECALL_LIMIT, 4)

    def recalls_after_upserts(self) -> dict[str, Any]:
        """Return the recall after items were written anew, with other vectors: soon, and when the index is settled."""
        again = self.random.permutation(len(self.vectors))[: self.job.upserts]
        self.vectors[again] = self.near(self.random.integers(len(self.centers), size=len(again)))
        self.write(again)
        time.sleep(_BOUNDED_S)
        soon = self.recall()
        self.store.settle_items(self.version)
        return {"upserts": len(again), "recall_after_upserts": soon, "recall_settled": self.recall()}

    def ours(self) -> Callable[[int], object]:
        """Return what asks for a user's candidates through our library."""
        encoder: Any = SimpleNamespace(
            model_version=self.version,
            manifest=SimpleNamespace(id_type="int64"),
            config=SimpleNamespace(context_features=()),
        )
        recommender = Recommender(self.store, {self.version: encoder}, ServingConfig(), InMemoryMetrics())
        return lambda user: recommender.retrieve(RetrieveRequest(user_id=user, limit=self.job.limit))

    def raw(self) -> Callable[[int], object]:
        """Return what reads a user's row and searches, with pymilvus alone, for as many items as ours asks for."""
        prefix = f"{self.version}__"
        depth = self.job.limit + _HISTORY
        fields = ["interests", "num_interests", "model_version", "behaviors"]
        settings: dict[str, Any] = {
            "limit": depth,
            "output_fields": ["item_id"],
            "search_params": {"metric_type": "IP", "params": {"ef": max(MilvusConfig().search_ef, depth)}},
        }

        def ask(user: int) -> object:
            [row] = self.client.get(f"{prefix}users", ids=[user], output_fields=fields)
            interests = np.float32(row["interests"]).reshape(-1, self.job.dim)[: row["num_interests"]]
            return self.client.search(f"{prefix}items__{row['model_version']}", list(interests), **settings)

        return ask

    def close(self) -> None:
        """Remove what was written."""
        for name in (f"{self.version}__users__{self.version}", f"{self.version}__items__{self.version}"):
            self.client.drop_collection(name)
        self.client.close()
        self.store.close()


def _normal(vectors: np.ndarray[Any, Any]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def ask_for(ask: Callable[[int], object], clients: int, seconds: float, users: int, asked: Asked) -> None:
    """Ask from so many threads for a while."""
    give_up = time.monotonic() + seconds

    def client(number: int) -> None:
        random, times = np.random.default_rng(number), []
        while (started := time.perf_counter()) and time.monotonic() < give_up:
            ask(int(random.integers(users)))
            times.append((time.perf_counter() - started) * 1000)
        asked.times_ms += times

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked.asked_s += time.monotonic() - started


def compare(world: World, clients: int) -> dict[str, Any]:
    """Let ours and raw take turns; return a row of the report."""
    asks = {"ours": world.ours(), "raw": world.raw()}
    seen = {name: Asked() for name in asks}
    for ask in asks.values():
        ask_for(ask, clients, 1.0, world.job.users, Asked())
    for _ in range(world.job.rounds):
        for name, ask in asks.items():
            ask_for(ask, clients, world.job.round_s, world.job.users, seen[name])
    return {
        "items": len(world.vectors),
        "clients": clients,
        "ours_p50_ms": seen["ours"].p50_ms,
        "raw_p50_ms": seen["raw"].p50_ms,
        "ours_qps": seen["ours"].qps,
        "raw_qps": seen["raw"].qps,
    }


def measure(uri: str, num_items: int, job: Retrieval) -> list[Mapping[str, Any]]:
    """Return the rows of one size of catalog, one for each number of clients."""
    world = World(uri, num_items, job)
    try:
        recall = {"recall": world.recall()}
        rows = [compare(world, clients) for clients in job.clients]
        if job.upserts:
            recall |= world.recalls_after_upserts()
        return [{**row, **recall} for row in rows]
    finally:
        world.close()


@contextmanager
def milvus() -> Iterator[str]:
    """Yield the URI of the Milvus that the environment names, or of one of our own."""
    if uri := os.environ.get("MIND_DIST_MILVUS"):
        yield uri
        return
    from tests.services import standalone  # noqa: PLC0415 - needs what only tests install

    with tempfile.TemporaryDirectory() as directory, standalone(Path(directory)) as server:
        yield server.address


def main(job: Retrieval) -> None:
    """Measure, print, and write the rows."""
    with milvus() as uri:
        rows: Sequence[Mapping[str, Any]] = [row for size in job.items for row in measure(uri, size, job)]
    table = Table("items", "clients", "p50 ms", "raw", "×", "req/s", "raw", "recall", "anew", "settled")
    for row in rows:
        factor = row["ours_p50_ms"] / row["raw_p50_ms"]
        cells = [row["ours_p50_ms"], row["raw_p50_ms"], f"{factor:.2f}", row["ours_qps"], row["raw_qps"], row["recall"]]
        anew = [str(row.get(name, "")) for name in ("recall_after_upserts", "recall_settled")]
        table.add_row(f"{row['items']:,}", str(row["clients"]), *map(str, cells), *anew)
    print_readable(table)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.write_text(to_json(rows, indent=1))


if __name__ == "__main__":
    run(Retrieval, main)
