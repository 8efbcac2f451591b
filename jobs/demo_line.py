"""What the demo runs once its services are up: every job in its order, and what they leave to be measured."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from ray import serve
from rich.console import Console

from jobs import evaluate, load_users, prepare, publish, replay, train
from jobs.cli import connect_ray
from jobs.serve import deploy, take_down
from mind_dist.config import Addresses, load
from mind_dist.dataset.item_catalog import ItemCatalog
from mind_dist.dataset.parquet import PreparedDataset
from mind_dist.encoder import InterestEncoder
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.evaluation import EvaluationReport, HeldOut, held_out
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VectorStore
from mind_dist.log.kafka import ensure_event_topics
from mind_dist.serving.ray_app import UPDATER, application_name
from mind_dist.strict_json import from_json

if TYPE_CHECKING:
    from jobs.demo import Demo

_PARTITIONS = 4
_TITLES_SHOWN = 4
_USERS_CHECKED = 50
_CATCH_UP_S = 60.0
_SCORE_TOLERANCE = 1e-3


@contextmanager
def serving_line(job: Demo, console: Console) -> Iterator[tuple[dict[str, Any], str]]:
    """Run the whole line; yields the report and the service's URL while it serves."""
    addresses = Addresses.from_environment()
    connect_ray(show_workers=False)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        with closing(MilvusVectorStore.at(addresses, job.serving.milvus)) as store:
            _check_empty(store, addresses.milvus)
            line = _Line(job, console, addresses)
            yield line.run(store), line.url
    finally:
        take_down()  # before Ray ends: it takes every process with it that is still connected


class _Line:
    """The whole line, each part's result where the next one looks for it."""

    def __init__(self, job: Demo, console: Console, addresses: Addresses) -> None:
        self.job = job
        self.console = console
        self.addresses = addresses
        self.url = ""
        self.dataset_uri = str(job.directory / "dataset")
        self.evaluation = job.directory / "evaluation.json"
        self.num_users = 0
        self.step_s: dict[str, float] = {}

    def run(self, store: VectorStore) -> dict[str, Any]:
        """Run it and return the report."""
        version_uri = self._make_version()
        evaluation = self._evaluate(version_uri)
        self._publish(version_uri)
        self._serve()
        self._load_users()
        dataset, encoder = PreparedDataset.open(self.dataset_uri), InterestEncoder.load(version_uri)
        users = held_out(dataset)
        shown = max(users, key=lambda user: len(user.future)).history.user_key
        before = _titles_per_interest(self.url, shown, encoder.catalog)
        stream = self._replay()
        with self._step("retrieve"):
            after = _titles_per_interest(self.url, shown, encoder.catalog)
            mismatches = _version_mismatches(self.url, store, encoder, users)
        return {
            "model_version": encoder.model_version,
            "metrics": evaluation.metrics,
            "verdict": evaluation.verdict.sentence if evaluation.verdict else "",
            "stream": stream,
            "version_mismatches": mismatches,
            "user": {"user_id": shown, "titles_per_interest": {"before": before, "after": after}},
            "step_s": self.step_s,
        }

    def _make_version(self) -> str:
        with self._step("prepare"):
            prepare.main(prepare.PrepareJob(self.dataset_uri, run="movielens_100k"))
        with self._step("train"):
            output, storage = self.job.directory / "train.json", str(self.job.directory / "runs")
            job = train.Train(
                self.dataset_uri,
                storage,
                "demo",
                output=str(output),
                workers=self.job.workers,
                training=self.job.training,
            )
            train.main(job)
        return str(from_json(output.read_text())["version_uri"])

    def _evaluate(self, version_uri: str) -> EvaluationReport:
        """Measure the version beside all floors: tuning them takes ten seconds or so, of a log of this size."""
        with self._step("evaluate"):
            output = str(self.evaluation)
            job = evaluate.EvaluateJob(self.dataset_uri, version_uri, output, category="genres", floors=True)
            evaluate.main(job)
        return load(EvaluationReport, self.evaluation)

    def _publish(self, version_uri: str) -> None:
        with self._step("publish"):
            milvus = self.job.serving.milvus
            job = publish.PublishJob(version_uri, self.evaluation, milvus=milvus)
            publish.main(job)

    def _serve(self) -> None:
        with self._step("serve"):
            kafka = self.job.serving.kafka.of_deployment(self.addresses.deployment)
            ensure_event_topics(self.addresses.kafka, kafka, _PARTITIONS)
            self.url = deploy(self.job.serving, self.addresses, timeout_s=120)
            self._wait(lambda status: len(status["states"].get("partitions", ())) == _PARTITIONS)

    def _load_users(self) -> None:
        with self._step("load users"):
            self.num_users = load_users.main(load_users.LoadUsers(self.dataset_uri, part="inputs"))
            self._wait(lambda status: status["states"]["num_applied"] >= self.num_users and _is_written(status))

    def _replay(self) -> dict[str, Any]:
        with self._step("replay"):
            replayed = replay.main(replay.Replay(self.dataset_uri, part="tail", rate=self.job.rate))
            wanted = self.num_users + replayed
            status = self._wait(lambda status: status["states"]["num_applied"] >= wanted and _is_written(status))
        [view] = status["views"]
        return {
            "events_replayed": replayed,
            "events_applied": status["states"]["num_applied"] - self.num_users,
            "poison": status["states"]["num_poison"],
            "freshness_ms": view["freshness_ms"],
        }

    def _wait(self, is_done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the updater's status once it is as wanted.

        Raises:
            ServiceUnavailable: It is not within a while.
        """
        application = application_name(self.addresses.deployment)
        updater = serve.get_deployment_handle(UPDATER, application)
        deadline = time.monotonic() + _CATCH_UP_S
        while True:
            status: dict[str, Any] = updater.status.remote().result()
            if is_done(status):
                return status
            if time.monotonic() > deadline:
                raise ServiceUnavailable("the updater", application, _CATCH_UP_S, f"it stands at {status}")
            time.sleep(0.2)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.step_s[name] = round(time.monotonic() - started, 1)


def _check_empty(store: VectorStore, address: str) -> None:
    """Raise ConfigError where the demo's figures would be those of an earlier run."""
    if versions := [info.model_version for info in store.versions()]:
        raise ConfigError("MIND_DIST_MILVUS", f"{address} holds {', '.join(versions)}: the demo wants an empty store")


def _is_written(status: Mapping[str, Any]) -> bool:
    """Tell whether the rows are what the states are."""
    return bool(status["views"]) and not status["views"][0]["num_behind"]


def _titles_per_interest(url: str, user_id: int, catalog: ItemCatalog) -> list[list[str]]:
    """Return the best titles of each of a user's interests."""
    titles = dict(zip(catalog.keys.tolist(), catalog.table["movie_title"].to_pylist(), strict=True))
    answer = _retrieve(url, user_id, limit=200)
    found: dict[int, list[str]] = defaultdict(list)
    for candidate in answer["candidates"]:
        found[candidate["interest"]].append(titles[candidate["item_id"]])
    return [found[interest][:_TITLES_SHOWN] for interest in range(answer["num_interests"])]


def _version_mismatches(url: str, store: VectorStore, encoder: InterestEncoder, users: Sequence[HeldOut]) -> int:
    """Count the answers that are not all of one version: user's row, items searched, and what is on disk.

    Scores tell it: an answer's must be the best inner products of the row's interests with the version's items.
    """
    checked = [user.history.user_key for user in users[:_USERS_CHECKED]]
    rows = store.get_users(encoder.model_version, checked, strong=True)
    return sum(not _agrees(_retrieve(url, key, limit=50), rows[key].interests, encoder) for key in checked)


def _agrees(answer: Mapping[str, Any], interests: np.ndarray, encoder: InterestEncoder) -> bool:
    keys = np.array([candidate["item_id"] for candidate in answer["candidates"]])
    scores = np.array([candidate["score"] for candidate in answer["candidates"]])
    at = np.searchsorted(encoder.item_keys, keys)
    exact = (interests @ encoder.item_vectors[at].T).max(axis=0)
    return answer["model_version"] == encoder.model_version and np.allclose(exact, scores, atol=_SCORE_TOLERANCE)


def _retrieve(url: str, user_id: int, limit: int) -> dict[str, Any]:
    token = Addresses.from_environment().http_token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"user_id": user_id, "limit": limit}
    response = httpx.post(f"{url}/v1/retrieve", json=body, headers=headers, timeout=30)
    if response.is_error:
        raise ServiceUnavailable("the recommender", url, 0, response.text)
    answer: dict[str, Any] = response.json()
    return answer
