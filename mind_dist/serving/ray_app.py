"""Ray Serve around the cores: threads, replicas, health, metrics, HTTP.

Two deployments. `UserVectorUpdater`: replicas that share a topic's partitions, each with a thread for the users' states
and one for the rows of each wanted model version. `Recommender`: HTTP. Both follow the active and the staged version and take over a new one without a restart.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import uuid
from functools import partial
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from mind_dist.config import Addresses, ServingConfig, dump, parse, prefixed
from mind_dist.encoder import InterestEncoder
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import VersionInfo
from mind_dist.keys import IdType
from mind_dist.log.kafka import EventProducer, KafkaDeadLetters, num_partitions
from mind_dist.log.kafka_settings import runtime_environment
from mind_dist.observability import configure_logging
from mind_dist.serving.collector import leave_out_what_is_loaded
from mind_dist.serving.event_sender import EventSender
from mind_dist.serving.group_progress import GroupProgress
from mind_dist.serving.health import Problem, Problems, UpdaterWatch
from mind_dist.serving.http import build_api, most_at_once
from mind_dist.serving.ray_metrics import RayMetrics
from mind_dist.serving.recall_audit import RecallAudit
from mind_dist.serving.recommender import Recommender
from mind_dist.serving.scaling import LAG, PARTITIONS, LagPolicy
from mind_dist.serving.states_loop import StatesLoop
from mind_dist.serving.version_follower import VersionFollower
from mind_dist.serving.view_loop import ViewLoop
from mind_dist.serving.work_loop import Beat
from mind_dist.states.on_kafka import states_on_kafka
from mind_dist.states.shared import SharedStores
from mind_dist.states.updater import StatesUpdater
from mind_dist.views.positions import KafkaViewPositions
from mind_dist.views.view import View

APPLICATION = "mind_dist"
"""Name of the Serve application of the deployment without a name."""

UPDATER = "UserVectorUpdater"
RECOMMENDER = "Recommender"

_STOP_WITHIN_S = 15.0
_REQUEST_RETRY_S = 2.0
"""A request is not kept waiting for a store as long as a batch of events is."""

_LOOK_BACK_S = 20.0
"""Over how long the mean is taken of what replicas tell, every 10 s, to the policy that their number follows."""

_HEALTH_TIMEOUT_S = 5.0
"""How long an updater may take to tell its health."""

_SPARE_REQUESTS = 64
"""Requests that a replica takes beside those which its lanes hold: health, refusals, and what is just being read."""


def application_name(deployment: str) -> str:
    """Return the name of a deployment's Serve application, by which Ray's dashboard shows it."""
    return prefixed(deployment, APPLICATION)


def build_app(config: ServingConfig, addresses: Addresses) -> serve.Application:
    """Return the application to give to `serve.run`.

    Addresses travel as arguments and settings of the Kafka client as variables, for replicas on other machines have
    another environment; secrets do not travel, so they must be in it.
    """
    arguments = (dump(config), addresses.shareable())
    options: dict[str, Any] = {
        "ray_actor_options": {
            "num_cpus": config.cpus_per_replica,
            "runtime_env": runtime_environment(),
        },
        "health_check_period_s": 2,
        "logging_config": {"enable_access_log": False},  # a line for each request and health check hides all others
    }
    updater: Any = serve.deployment(
        UpdaterReplica,
        name=UPDATER,
        graceful_shutdown_timeout_s=2 * _STOP_WITHIN_S + 5,
        **_num_updaters(config),
        **options,
    )
    recommender: Any = serve.deployment(
        serve.ingress()(RecommenderReplica),
        name=RECOMMENDER,
        num_replicas=config.num_recommenders,
        max_ongoing_requests=most_at_once(config.http) + _SPARE_REQUESTS,
        **options,
    )
    application: serve.Application = recommender.bind(*arguments, updater.bind(*arguments))
    return application


def _num_updaters(config: ServingConfig) -> dict[str, Any]:
    scaling = config.scaling
    if not scaling.max_updaters:
        return {"num_replicas": config.num_updaters}
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]  # the class has no types
        policy_function=f"{LagPolicy.__module__}.{LagPolicy.__name__}",
        policy_kwargs={"lag_per_updater": scaling.lag_per_updater},
    )
    autoscaling = AutoscalingConfig(
        min_replicas=config.num_updaters,
        max_replicas=scaling.max_updaters,
        upscale_delay_s=scaling.up_after_s,
        downscale_delay_s=scaling.down_after_s,
        look_back_period_s=_LOOK_BACK_S,
        policy=policy,
    )
    return {"autoscaling_config": autoscaling}


class _Replica:
    """What both deployments are made of: settings, a store, metrics."""

    def __init__(self, config: dict[str, Any], addresses: dict[str, Any]) -> None:
        configure_logging()
        torch.set_num_threads(1)
        self.addresses = Addresses.shared(addresses)
        given = parse(ServingConfig, config, where="serving")
        self.config = dataclasses.replace(given, kafka=given.kafka.of_deployment(self.addresses.deployment))
        self.metrics = RayMetrics()
        self.problems = Problems(self.metrics)

    def store(self, retry_s: float) -> MilvusVectorStore:
        milvus = dataclasses.replace(self.config.milvus, retry_s=min(retry_s, self.config.milvus.retry_s))
        return MilvusVectorStore.at(self.addresses, milvus)


class UpdaterReplica(_Replica):
    """Keeps users' states, and behind them the rows of every wanted version, each in a thread of its own."""

    def __init__(self, config: dict[str, Any], addresses: dict[str, Any]) -> None:
        super().__init__(config, addresses)
        self._name = uuid.uuid4().hex
        self._store = self.store(self.config.milvus.retry_s)
        self._shared = SharedStores(self.config.kafka.session_timeout_s)
        self._states: StatesLoop | None = None
        self._follower = VersionFollower(
            self._store,
            self._start,
            partial(ViewLoop.stop, timeout_s=_STOP_WITHIN_S),
            poll_s=self.config.version_poll_s,
            problems=self.problems,
            source="updater",
        )
        self._follower.start()

    def check_health(self) -> None:
        """Raise when this replica must be replaced: Serve calls it every few seconds."""
        self._follower.check(self.config.unhealthy_after_s)
        if self._states is not None:
            self._states.check()
        for view in list(self._follower.parts.values()):
            view.check()

    def status(self) -> dict[str, Any]:
        """Return what was done in this replica: its name, `states`, and each of the `views`."""
        states = dataclasses.asdict(self._states.status()) if self._states else {}
        views = [dataclasses.asdict(view.status()) for view in list(self._follower.parts.values())]
        return {"replica": self._name, "states": states, "views": views}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the number of updaters follows: Serve asks for it."""
        states = self._states
        return {LAG: states.lag, PARTITIONS: states.num_partitions} if states else {LAG: 0, PARTITIONS: 0}

    def health(self) -> tuple[str, list[Problem]]:
        """Return this replica's name and what is wrong with it: `/readyz` shows it."""
        return self._name, self.problems.current()

    def __del__(self) -> None:
        """Leave the consumer groups; Serve calls it before it ends the process."""
        if hasattr(self, "_follower"):
            states = self._states
            stopping = threading.Thread(target=lambda: states and states.stop(_STOP_WITHIN_S))
            stopping.start()
            self._follower.stop(_STOP_WITHIN_S)
            stopping.join()
            if states is None and self._states is not None:  # the follower was just loading its first version
                self._states.stop(_STOP_WITHIN_S)

    def _start(self, info: VersionInfo) -> ViewLoop:
        encoder = _load(info)
        self._keep_states(encoder.manifest.id_type)
        loop = ViewLoop(
            info.model_version,
            partial(self._view, encoder, info),
            self._shared,
            self.config,
            self.metrics,
            problems=self.problems,
            is_active=lambda: self._follower.active == info.model_version,
        )
        loop.start()
        return loop

    def _keep_states(self, id_type: IdType) -> None:
        """Begin with the first version: what ids are is known by it, and never changes in a deployment."""
        if self._states is None:
            why_unowned = GroupProgress(self.addresses.kafka, self.config).why_unowned
            build = partial(self._connect, id_type)
            self._states = StatesLoop(build, self.config, self.metrics, problems=self.problems, why_unowned=why_unowned)
            self._states.start()

    def _connect(self, id_type: IdType, beat: Beat) -> StatesUpdater:
        return states_on_kafka(
            self.addresses.kafka,
            self.config.kafka,
            self.config.states,
            id_type,
            shared=self._shared,
            on_step=lambda step: beat(f"{step.value} ({step.name.lower()})"),
            may_take=lambda: self._shared.most_behind() <= self.config.views.max_lag,
        )

    def _view(self, encoder: InterestEncoder, info: VersionInfo) -> View:
        kafka = self.config.kafka
        timeout_s = kafka.connect_timeout_s
        count = num_partitions(self.addresses.kafka, kafka.states_topic, timeout_s=timeout_s)
        return View(
            encoder,
            self._store,
            KafkaViewPositions(self.addresses.kafka, kafka, info, count),
            KafkaDeadLetters(self.addresses.kafka, dataclasses.replace(kafka, topic=kafka.states_topic)),
            self.config.states.kept_features,
            config=self.config.views,
            metrics=self.metrics,
            may_write=self._shared.is_ours,
        )


class RecommenderReplica(_Replica):
    """Answers HTTP."""

    def __init__(self, config: dict[str, Any], addresses: dict[str, Any], updater: Any) -> None:
        """Start to follow versions.

        Args:
            config: `ServingConfig` as plain values.
            addresses: What of `Addresses` is no secret.
            updater: Handle of the updater's deployment, which is asked for its health.
        """
        super().__init__(config, addresses)
        self._store = self.store(_REQUEST_RETRY_S)
        self._follower = VersionFollower(
            self._store,
            _load,
            lambda _encoder: None,
            poll_s=self.config.version_poll_s,
            problems=self.problems,
            source="recommender",
        )
        self._follower.start()
        self._watch = UpdaterWatch(
            partial(_ask, updater),
            fewest=self.config.num_updaters,
            most=self.config.most_updaters,
            problems=self.problems,
            after_s=self.config.degraded_after_s,
        )
        self._watch.start()
        self._audit = RecallAudit(self._store, self.metrics, self.config.http.audit_share)
        self._audit.start()
        self._recommender = Recommender(self._store, self._follower.parts, self.config, self.metrics, audit=self._audit)
        self._sender = EventSender(self._connect, self.addresses.kafka)
        self._sender.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return what answers; Serve calls it once."""
        skew_ms = self.config.kafka.max_clock_skew_ms
        return build_api(
            self._recommender,
            self._sender.send,
            max_clock_skew_ms=skew_ms,
            limits=self.config.http,
            token=self.addresses.http_token.get_secret_value(),
            find_problems=self._find_problems,
        )

    def _find_problems(self) -> list[Problem]:
        return self.problems.current() + self._watch.current()

    def check_health(self) -> None:
        """Raise when versions are followed no more; a store that is away is not mended by a new replica."""
        self._follower.check(math.inf)

    def __del__(self) -> None:
        """Leave the log; Serve calls it before it ends the process."""
        if hasattr(self, "_sender"):
            self._watch.stop(_STOP_WITHIN_S)
            self._follower.stop(_STOP_WITHIN_S)
            self._sender.close(_STOP_WITHIN_S)
            self._audit.close(_STOP_WITHIN_S)

    def _connect(self) -> EventProducer:
        """Reach the log; a request waits for it no longer than is configured."""
        within_s = min(self.config.http.events_timeout_s, self.config.kafka.connect_timeout_s)
        return EventProducer(self.addresses.kafka, dataclasses.replace(self.config.kafka, connect_timeout_s=within_s))


def _ask(updater: Any) -> tuple[str, list[Problem]]:
    """Return the name of one of the updater's replicas, and its problems."""
    answer: tuple[str, list[Problem]] = updater.health.remote().result(timeout_s=_HEALTH_TIMEOUT_S)
    return answer


def _load(info: VersionInfo) -> InterestEncoder:
    encoder = InterestEncoder.load(info.uri)
    leave_out_what_is_loaded()
    return encoder
