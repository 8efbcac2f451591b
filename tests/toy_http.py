"""The HTTP application over an index in memory, asked in this process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from mind_dist.config import HttpConfig, ServingConfig
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ServiceUnavailable
from mind_dist.index.memory import InMemoryVectorStore
from mind_dist.keys import IdType, id_key
from mind_dist.observability import InMemoryMetrics
from mind_dist.publishing import publish
from mind_dist.records import BehaviorSequence, Keys
from mind_dist.serving.event_sender import SentEvent
from mind_dist.serving.health import Problem
from mind_dist.serving.http import build_api
from mind_dist.serving.recommender import Recommender
from tests.toy_views import fill_users
from tests.versions import loaded, original_id, tiny_version


class Client:
    """Asks the application in this process."""

    def __init__(self, api: FastAPI) -> None:
        self._transport = httpx.ASGITransport(api)

    def get(self, path: str, **content: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, **content))

    def post(self, path: str, **content: Any) -> httpx.Response:
        return asyncio.run(self._ask("POST", path, **content))

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://service") as client:
            return await client.request(method, path, **content)


class Store(InMemoryVectorStore):
    """An index that can be away."""

    def __init__(self, is_away: Callable[[], bool]) -> None:
        super().__init__()
        self._is_away = is_away

    def active_version(self) -> str | None:
        if self._is_away():
            raise ServiceUnavailable("Milvus", "127.0.0.1:19530", 10)
        return super().active_version()


class Setting:
    """The application over an index in memory, with users 7 and 5; the index and the log can be away."""

    def __init__(
        self,
        directory: Path,
        available: Mapping[int, tuple[int, int]] | None = None,
        id_type: IdType = "int64",
        limits: HttpConfig | None = None,
        token: str = "",
    ) -> None:
        self.sent: list[SentEvent] = []
        self.headers: list[Sequence[tuple[str, bytes]]] = []
        self.id_type = id_type
        self.log_is_away = False
        self.uri = tiny_version(directory, available=available, id_type=id_type)
        self.index_is_away = False
        self.store: InMemoryVectorStore = Store(lambda: self.index_is_away)
        self.encoders: dict[str, InterestEncoder] = {}
        self.recommender = Recommender(self.store, self.encoders, ServingConfig(), InMemoryMetrics())
        self.problems: list[Problem] = []
        api = build_api(
            self.recommender,
            self.send,
            max_clock_skew_ms=3_600_000,
            limits=limits,
            token=token,
            find_problems=lambda: self.problems,
        )
        self.client = Client(api)

    def publish(self) -> str:
        encoder = loaded(self.uri)
        one_interest = BehaviorSequence(7, self.keys(1, 2, 3), np.array([10, 20, 30]))
        three_interests = BehaviorSequence(5, self.keys(*range(8)), np.arange(8))
        publish(self.store, encoder, self.uri)
        fill_users(self.store, encoder, encoder.model_version, [one_interest, three_interests])
        self.encoders[encoder.model_version] = encoder
        return encoder.model_version

    def keys(self, *items: int) -> Keys:
        return np.array([id_key(original_id(item, self.id_type), self.id_type) for item in items], dtype=np.int64)

    def send(self, events: Sequence[SentEvent], headers: Sequence[tuple[str, bytes]]) -> None:
        if self.log_is_away:
            raise ServiceUnavailable("Kafka", "127.0.0.1:9092", 30)
        self.sent += events
        self.headers.append(headers)
