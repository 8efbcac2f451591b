"""Local services: they start, their addresses work, and nothing of them is left, however their owner ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mind_dist.config import KafkaConfig
from mind_dist.data.kafka import EventProducer, ensure_topics, num_partitions, wait_for_broker
from mind_dist.errors import ConfigError, ServiceUnavailable
from mind_dist.local_process import LocalProcess, free_ports, listeners
from mind_dist.local_stack import LocalStack, apache_kafka, milvus_lite, ray_head, tansu
from tests.ray_jobs import run_job

SERVE = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SERVE
WITH_ORPHANS = (
    "import subprocess, sys;"
    "[subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    " for _ in range(2)];" + SERVE
)


def process(tmp_path: Path, program: str, **settings: float) -> LocalProcess:
    [port] = free_ports(1)
    command = [sys.executable, "-c", program, str(port)]
    return LocalProcess("Test", f"127.0.0.1:{port}", port, command, tmp_path / "test.log", **settings)  # type: ignore[arg-type]


def alive(pids: set[int]) -> set[int]:
    """Return the processes that still run; a zombie does not."""
    running = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.add(pid)
        except OSError:
            continue
    return running


def wait(met: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline_s, "it did not come to pass in time"
        time.sleep(0.05)


def test_a_process_and_the_orphans_it_made_are_gone_after_a_stop(tmp_path: Path) -> None:
    with process(tmp_path, WITH_ORPHANS) as server:
        held = server.processes()
        assert len(held) == 4  # supervisor, server, two in sessions of their own
        assert server.is_running()
    assert not alive(held)
    assert not server.is_running()
    server.stop()


def test_a_process_that_ignores_the_polite_signal_is_killed_after_the_bound(tmp_path: Path) -> None:
    with process(tmp_path, STUBBORN, stop_within_s=0.5) as server:
        held = server.processes()
        start_s = time.monotonic()
    assert 0.4 < time.monotonic() - start_s < 5
    assert not alive(held)


def test_nothing_is_left_when_the_body_raises(tmp_path: Path) -> None:
    held: set[int] = set()
    with suppress(ZeroDivisionError), process(tmp_path, SERVE) as server:
        held = server.processes()
        raise ZeroDivisionError
    assert held
    assert not alive(held)


def test_a_process_that_ends_at_once_is_named_with_its_log(tmp_path: Path) -> None:
    server = process(tmp_path, "print('no luck'); raise SystemExit(3)")
    with pytest.raises(ServiceUnavailable, match=r"it ended; its log is .*test\.log"), server:
        pass
    assert "no luck" in (tmp_path / "test.log").read_text()


def test_a_process_that_never_listens_fails_within_the_bound_and_is_gone(tmp_path: Path) -> None:
    server = process(tmp_path, "import time; time.sleep(600)", ready_within_s=0.5)
    with pytest.raises(ServiceUnavailable, match="not ready"), server:
        pass
    assert not server.is_running()
    assert not alive(server.processes())


def test_somebody_elses_port_is_noticed(tmp_path: Path) -> None:
    server = process(tmp_path, "import time; time.sleep(600)")
    with socket.create_server(("127.0.0.1", server.port)):
        assert listeners(server.port) == {os.getpid()}
        with pytest.raises(ServiceUnavailable, match="held by another process"), server:
            pass


OWNER = """
import sys, time
from pathlib import Path
from mind_dist.local_process import LocalProcess
port = int(sys.argv[1])
command = [sys.executable, "-c", sys.argv[3], str(port)]
with LocalProcess("Test", "127.0.0.1", port, command, Path(sys.argv[2])) as server:
    print(*server.processes(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """A process that owns a server with orphans, and the ids of that server's processes."""
    command = [sys.executable, "-c", OWNER, str(free_ports(1)[0]), str(tmp_path / "log"), WITH_ORPHANS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stdout is not None
        yield running, {int(pid) for pid in running.stdout.readline().split()}
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_an_owner_that_a_signal_ends(
    owner: tuple[subprocess.Popen[str], set[int]], number: signal.Signals
) -> None:
    running, held = owner
    assert len(held) == 4
    running.send_signal(number)
    running.wait()
    wait(lambda: not alive(held))


def test_the_stack_starts_works_and_leaves_nothing(tmp_path: Path) -> None:
    with LocalStack.start(tmp_path, ray=False, environment={}) as stack:
        assert stack.environment == {
            "MIND_DIST_KAFKA": stack.addresses.kafka,
            "MIND_DIST_MILVUS": stack.addresses.milvus,
        }
        ensure_topics(stack.addresses.kafka, {"events": 3})
        assert num_partitions(stack.addresses.kafka, "events") == 3
        milvus_port = int(stack.addresses.milvus.rpartition(":")[2])
        held = listeners(milvus_port) | listeners(int(stack.addresses.kafka.rpartition(":")[2]))
        assert held
        assert (stack.directory / "milvus.log").exists()
    assert not alive(held)
    assert not listeners(milvus_port)


def test_what_was_up_is_stopped_when_a_later_service_cannot_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="KAFKA_HOME"),
        LocalStack.start(tmp_path, ray=False, environment={"KAFKA_HOME": str(tmp_path)}),
    ):
        pass


def test_external_services_are_used_where_their_addresses_are_given(tmp_path: Path) -> None:
    given = {"MIND_DIST_KAFKA": "kafka:1", "MIND_DIST_MILVUS": "http://milvus:2", "RAY_ADDRESS": "ray:3"}
    with LocalStack.start(tmp_path, environment={**given, "HOME": "/"}) as stack:
        assert (stack.addresses.kafka, stack.addresses.milvus, stack.ray_address) == (
            "kafka:1",
            "http://milvus:2",
            "ray:3",
        )
        assert stack.environment == given


def test_ray_takes_jobs_and_leaves_no_process_and_its_logs(tmp_path: Path) -> None:
    with ray_head(tmp_path, num_cpus=2, environment={"PROBE": "inherited"}) as head:
        held = head.processes()
        status, output = run_job(head.client_environment, "sh", "-c", "echo probe=$PROBE")
        assert status == "SUCCEEDED", output
        assert "probe=inherited" in output
        held |= head.processes()
    assert not alive(held)
    assert (tmp_path / "ray" / "gcs_server.out").exists()


def test_two_milvus_servers_have_ports_of_their_own(tmp_path: Path) -> None:
    with milvus_lite(tmp_path / "a") as first, milvus_lite(tmp_path / "b") as second:
        assert first.port != second.port
        assert not listeners(first.port) & listeners(second.port)


def test_an_unreachable_broker_is_one_clear_error_within_the_bound() -> None:
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    for attempt in (
        lambda: wait_for_broker(address, 1),
        lambda: ensure_topics(address, {"t": 1}, timeout_s=1),
        lambda: EventProducer(address, KafkaConfig(connect_timeout_s=1)),
    ):
        start_s = time.monotonic()
        with pytest.raises(ServiceUnavailable, match=f"Kafka at {address} did not answer within 1 s"):
            attempt()
        assert time.monotonic() - start_s < 4


@pytest.fixture
def stack_job(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`jobs.stack` without Ray, its logs in `tmp_path`."""
    command = [sys.executable, "-m", "jobs.stack", "up", "--no-ray", "--directory", str(tmp_path)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MIND_DIST_", "KAFKA_"))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bare) as job:
        yield job
        job.kill()


def test_the_stack_job_prints_addresses_and_ends_on_ctrl_c(stack_job: subprocess.Popen[str], tmp_path: Path) -> None:
    assert stack_job.stdout is not None
    kafka, milvus, last = (stack_job.stdout.readline() for _ in range(3))
    assert kafka.startswith("export MIND_DIST_KAFKA=127.0.0.1:")
    assert milvus.startswith("export MIND_DIST_MILVUS=http://127.0.0.1:")
    assert f"logs are in {tmp_path}" in last
    port = int(kafka.rpartition(":")[2])
    assert listeners(port)
    stack_job.send_signal(signal.SIGINT)
    assert stack_job.wait(60) == 0
    assert not listeners(port)


def test_kafka_and_tansu_refuse_a_home_that_is_none_and_start_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KAFKA_HOME"):
        apache_kafka(tmp_path, tmp_path)
    with tansu(tmp_path) as broker, pytest.raises(ConfigError, match="there is no topic 'nothing'"):
        num_partitions(broker.address, "nothing")
