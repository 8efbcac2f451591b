"""Keep user vectors fresh from Kafka and answer HTTP, on Ray Serve: `python -m jobs.serve`.

Runs until Ctrl-C or SIGTERM. No model version need be there yet: it is picked up when it is published.
"""

from __future__ import annotations

import dataclasses
import io
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.cli import connect_ray, run, stop_requested
from mind_dist.config import Addresses, KafkaConfig, ServingConfig
from mind_dist.errors import ConfigError, MindDistError, ServiceUnavailable
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.log.kafka import num_partitions, wait_for_broker
from mind_dist.log.kafka_topics import ensure_dead_letter_topic, ensure_state_topic
from mind_dist.ports import check_port, is_local, is_loopback, reserved_port
from mind_dist.serving.ray_app import APPLICATION, application_name, build_app

_POLL_S = 0.2
_HTTP = {"purpose": "HTTP", "advice": "choose another with --serving.port"}


@dataclass(frozen=True)
class Serve:
    """Keep user vectors fresh from Kafka and answer HTTP, on Ray Serve."""

    serving: ServingConfig = field(default_factory=ServingConfig)
    """The replicas."""
    block: bool = True
    """Run until Ctrl-C or SIGTERM, then take the service down; otherwise leave it on the cluster of RAY_ADDRESS."""
    ready_timeout_s: float = 120.0
    """How long the replicas may take to come up."""


def main(job: Serve) -> None:
    """Deploy, wait until the service answers, print where, and stay."""
    has_cluster = "RAY_ADDRESS" in os.environ
    if not job.block and not has_cluster:
        raise ConfigError("block", "a service can be left running on a cluster only: set RAY_ADDRESS")
    addresses = Addresses.from_environment()
    check_guarded(job.serving.host, addresses)
    if not has_cluster:  # now, not after the seconds that Ray takes to start
        check_port(job.serving.host, job.serving.port, **_HTTP)
    check_log(addresses.kafka, job.serving.kafka.of_deployment(addresses.deployment))
    MilvusVectorStore.at(addresses, job.serving.milvus).close()
    connect_ray()
    _check_alone(addresses.deployment, may_be_running=not job.block)
    stop = stop_requested()
    with ExitStack() as at_end:
        on_start = (lambda: at_end.callback(take_down)) if job.block else (lambda: None)
        url = deploy(_with_whole_paths(job.serving), addresses, job.ready_timeout_s, on_start)
        print(f"serving at {url}, documented at {url}/docs", flush=True)
        while job.block and not stop():
            time.sleep(_POLL_S)


def _with_whole_paths(config: ServingConfig) -> ServingConfig:
    """Return the same with the states' folder seen from here: replicas work in folders of Ray's own."""
    states = config.states
    if states.directory:
        states = dataclasses.replace(states, directory=str(Path(states.directory).absolute()))
    return dataclasses.replace(config, states=states)


def _check_alone(deployment: str, *, may_be_running: bool) -> None:
    """Check that the connected cluster serves no other deployment, nor this one for another job.

    Serve has one HTTP port a cluster, and is shut down as a whole when a blocking job ends.

    Args:
        deployment: Name of the deployment.
        may_be_running: Whether it may be served already, and is then deployed again.

    Raises:
        ConfigError: Something is served that must not be.
    """
    running = {name for name in serve.status().applications if name.endswith(APPLICATION)}
    if application_name(deployment) in running and not may_be_running:
        problem = "this Ray cluster serves the deployment already, and would no more when this job ends"
        advice = "end that job, or `serve shutdown -y`; --no-block deploys again what --no-block has left running"
        raise ConfigError("block", f"{problem}: {advice}")
    if others := running - {application_name(deployment)}:
        problem = f"this Ray cluster serves the deployment of the application {', '.join(sorted(others))} already"
        raise ConfigError("MIND_DIST_DEPLOYMENT", f"{problem}: serve each deployment on a Ray cluster of its own")


def check_guarded(host: str, addresses: Addresses) -> None:
    """Refuse to answer others than this machine without a token: who reaches the port could read and write every user.

    Raises:
        ConfigError: The address is not a loopback one, and there is no token.
    """
    if not addresses.http_token.get_secret_value() and not is_loopback(host):
        problem = f"{host} can be reached from other machines, and MIND_DIST_HTTP_TOKEN is not set"
        raise ConfigError("serving.host", f"{problem}: set it to a long random text, or serve at 127.0.0.1")


def check_log(bootstrap: str, config: KafkaConfig) -> None:
    """Return when the events' topic is there; the states' and the dead letters' are created where they are not.

    Raises:
        ConfigError: A topic is missing, with the command that creates it.
        ServiceUnavailable: The broker did not answer.
    """
    wait_for_broker(bootstrap, config.connect_timeout_s)
    num_partitions(bootstrap, config.topic, timeout_s=config.connect_timeout_s)
    ensure_dead_letter_topic(bootstrap, config)
    ensure_state_topic(bootstrap, config)


def deploy(
    config: ServingConfig, addresses: Addresses, timeout_s: float, on_start: Callable[[], object] = lambda: None
) -> str:
    """Deploy to the connected cluster and return the service's URL once it answers.

    Args:
        config: The replicas.
        addresses: The services they use.
        timeout_s: How long they may take to come up.
        on_start: Called when the port is ours, before anything is started that would have to be taken down.

    Raises:
        PortInUse: Somebody else has the port.
        ConfigError: Serve runs on this cluster already, on another port; or others could reach it without a token.
        ServiceUnavailable: The replicas did not come up, with the reason.
    """
    check_guarded(config.host, addresses)
    url = f"http://{config.host}:{config.port}"
    application = application_name(addresses.deployment)
    with _http_port(config.host, config.port):
        on_start()
        serve.start(http_options=HTTPOptions(host=config.host, port=config.port))
        target = serve.RunTarget(build_app(config, addresses), name=application, route_prefix="/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        _wait(lambda: _not_running(application) or _not_answering(url), url, timeout_s)
    return url


def take_down() -> None:
    """End Serve on the connected cluster, and leave the cluster.

    Ray prints that its own calls to the controller, which it ends, have failed and are retried for ever.
    """
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()  # such lines come from a thread that ends here


@contextmanager
def _http_port(host: str, port: int) -> Iterator[None]:
    """Hold the port that Serve's proxies are about to bind, on every machine of the cluster that this one can ask.

    Where Serve runs on the cluster already, its proxies have a port and keep it, so it must be the one wanted.
    """
    running = _get_global_client(raise_if_no_controller_running=False)
    if running is not None:
        options = running.http_config
        if (options.host, options.port) != (host, port):
            problem = f"Ray Serve runs on this cluster at {options.host}:{options.port} and cannot move: give that"
            raise ConfigError("serving.port", f"{problem}, or end it with `serve shutdown`")
        yield
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    here = [node for node in nodes if is_local(node["NodeManagerAddress"])]
    _check_port_on([node["NodeID"] for node in nodes if node not in here], host, port)
    with reserved_port(host, port, **_HTTP) if here else nullcontext():
        yield


def _check_port_on(node_ids: list[str], host: str, port: int) -> None:
    """Raise `PortInUse` when somebody has the port on one of these machines."""
    check = ray.remote(num_cpus=0, max_retries=0)(_port_problem)
    on_nodes = [NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in node_ids]
    for problem in ray.get([check.options(scheduling_strategy=each).remote(host, port) for each in on_nodes]):
        if problem is not None:
            raise problem


def _port_problem(host: str, port: int) -> MindDistError | None:
    try:
        check_port(host, port, **_HTTP)
    except MindDistError as error:
        return error
    return None


def _wait(problem: Callable[[], str], url: str, timeout_s: float) -> None:
    started = time.monotonic()
    while reason := problem():
        waited_s = time.monotonic() - started
        if waited_s > timeout_s or reason.startswith("DEPLOY_FAILED"):
            raise ServiceUnavailable("Ray Serve", url, waited_s, reason)
        time.sleep(_POLL_S)


def _not_running(name: str) -> str:
    """Return why an application does not run; "" when it does."""
    application = serve.status().applications.get(name)
    if application is None:
        return "not deployed yet"
    if application.status == "RUNNING":
        return ""
    messages = [each.message for each in application.deployments.values() if each.message]
    return f"{application.status}: {'; '.join([application.message, *messages]).strip('; ')}"


def _not_answering(url: str) -> str:
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=5).close()  # noqa: S310 - our own address
    except (urllib.error.URLError, OSError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    run(Serve, main)
