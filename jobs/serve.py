"""Keep user vectors fresh from Kafka and answer HTTP, on Ray Serve: `python -m jobs.serve`.

Runs until Ctrl-C or SIGTERM. No model version need be there yet: it is picked up when it is published.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

from ray import serve
from ray.serve.config import HTTPOptions

from jobs.cli import connect_ray, run, stop_requested
from mind_dist.config import Addresses, ServingConfig
from mind_dist.data.kafka import wait_for_broker
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.serving.ray_app import APPLICATION, application_name, build_app

_POLL_S = 0.2


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
    if not job.block and "RAY_ADDRESS" not in os.environ:
        raise ConfigError("block", "a service can be left running on a cluster only: set RAY_ADDRESS")
    addresses = Addresses.from_environment()
    wait_for_broker(addresses.kafka, job.serving.kafka.connect_timeout_s)
    MilvusVectorStore.at(addresses, job.serving.milvus).close()
    connect_ray()
    _check_alone(addresses.deployment)
    stop = stop_requested()
    try:
        url = deploy(job.serving, addresses, job.ready_timeout_s)
        print(f"serving at {url}, documented at {url}/docs", flush=True)
        while job.block and not stop():
            time.sleep(_POLL_S)
    finally:
        if job.block:
            serve.shutdown()  # type: ignore[no-untyped-call]


def _check_alone(deployment: str) -> None:
    """Check that the connected cluster serves no other deployment.

    Serve has one HTTP port a cluster, and is shut down as a whole when a blocking job ends.

    Raises:
        ConfigError: It serves another one.
    """
    running = [name for name in serve.status().applications if name.endswith(APPLICATION)]
    if others := set(running) - {application_name(deployment)}:
        problem = f"this Ray cluster serves the deployment of the application {', '.join(sorted(others))} already"
        raise ConfigError("MIND_DIST_DEPLOYMENT", f"{problem}: serve each deployment on a Ray cluster of its own")


def deploy(config: ServingConfig, addresses: Addresses, timeout_s: float) -> str:
    """Deploy to the connected cluster and return the service's URL once it answers.

    Raises:
        ServiceUnavailable: The replicas did not come up, with the reason.
    """
    url = f"http://{config.host}:{config.port}"
    application = application_name(addresses.deployment)
    serve.start(http_options=HTTPOptions(host=config.host, port=config.port))
    target = serve.RunTarget(build_app(config, addresses), name=application, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    _wait(lambda: _not_running(application) or _not_answering(url), url, timeout_s)
    return url


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
