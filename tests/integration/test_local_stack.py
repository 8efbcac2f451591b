"""Local services: they start, their addresses work, and nothing of them is left, however their owner ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from mind_dist.config import Addresses, KafkaConfig, MilvusConfig
from mind_dist.errors import ConfigError, PortInUse, ServiceUnavailable
from mind_dist.index.milvus import MilvusVectorStore
from mind_dist.index.vector_store import UserRow
from mind_dist.local_process import LocalProcess, free_ports, listeners
from mind_dist.local_stack import LocalStack, apache_kafka, milvus_lite, ray_head, tansu, tansu_object_store
from mind_dist.local_stack.kept import kept_ports
from mind_dist.log.kafka import EventProducer, KafkaSource, ensure_topics, num_partitions, wait_for_broker
from tests.ray_jobs import run_job
from tests.services import KAFKA_HOME
from tests.toy_serving import INFO, VERSION

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


def test_somebody_elses_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    server = process(tmp_path, SERVE)
    with socket.create_server(("127.0.0.1", server.port)):
        assert listeners(server.port) == {os.getpid()}
        with pytest.raises(PortInUse, match=f"wanted for Test, is held by process {os.getpid()}"), server:
            pass
    assert not server.log.exists()


def test_a_port_that_somebody_takes_meanwhile_is_noticed(tmp_path: Path) -> None:
    server = process(tmp_path, "import time; time.sleep(600)")
    server.start()
    try:
        with (
            socket.create_server(("127.0.0.1", server.port)),
            pytest.raises(ServiceUnavailable, match="held by another process"),
        ):
            server.wait_ready()
    finally:
        server.stop()


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
    assert len(list((tmp_path / "ray").glob("*/gcs_server.out"))) == 1


def test_two_rays_share_no_port(tmp_path: Path) -> None:
    heads = [ray_head(tmp_path / name, num_cpus=1) for name in ("a", "b")]
    with heads[0], heads[1]:
        first, second = ([port for port in (head.port, *head.other_ports) if listeners(port)] for head in heads)
        assert len(first) == len(second) == 6
        assert not set(first) & set(second)
        assert all(head.metrics_discovery and head.metrics_discovery.exists() for head in heads)


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


class StackJob:
    """`jobs.stack up` without Ray in a directory; can be ended and started again."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        prefixes = ("RAY_", "MIND_DIST_", "KAFKA_HOME")
        bare = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
        self.variables = {**bare, **variables}

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """Yield the running job."""
        command = [sys.executable, "-m", "jobs.stack", "up", "--no-ray", "--directory", str(self.directory)]
        with subprocess.Popen(
            command, text=True, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as job:
            try:
                yield job
            finally:
                job.kill()

    @contextmanager
    def ready(self) -> Iterator[tuple[subprocess.Popen[str], Addresses]]:
        """Yield the job when its services are up, and their addresses."""
        with self.up() as job:
            assert job.stdout is not None
            kafka, milvus, last = (job.stdout.readline() for _ in range(3))
            assert kafka.startswith("export MIND_DIST_KAFKA=127.0.0.1:")
            assert milvus.startswith("export MIND_DIST_MILVUS=http://127.0.0.1:")
            assert f"logs and data are in {self.directory}" in last
            yield job, Addresses(kafka.strip().partition("=")[2], milvus.strip().partition("=")[2])


def test_the_stack_job_prints_addresses_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    with StackJob(tmp_path).ready() as (job, addresses):
        port = int(addresses.kafka.rpartition(":")[2])
        assert listeners(port)
        job.send_signal(signal.SIGINT)
        assert job.wait(60) == 0
        assert not listeners(port)


def test_a_stack_says_which_service_has_ended_and_stops_the_others(tmp_path: Path) -> None:
    with StackJob(tmp_path).ready() as (job, addresses):
        milvus_port, kafka_port = (int(each.rpartition(":")[2]) for each in (addresses.milvus, addresses.kafka))
        for process in listeners(milvus_port):
            os.kill(process, signal.SIGKILL)
        assert job.wait(60) == 1
        assert job.stderr is not None
        told = f"error: Milvus at {addresses.milvus} has ended; its log is {tmp_path.absolute() / 'milvus.log'}\n"
        assert job.stderr.read() == told
        assert not listeners(kafka_port)


def test_a_stack_says_which_services_are_those_of_the_shell_and_that_they_are_gone(tmp_path: Path) -> None:
    with StackJob(tmp_path / "first").ready() as (first, addresses):
        given = {"MIND_DIST_KAFKA": addresses.kafka, "MIND_DIST_MILVUS": addresses.milvus}
        with StackJob(tmp_path / "second", **given).up() as second:
            assert second.stdout is not None
            assert second.stdout.readline() == (
                f"# MIND_DIST_KAFKA is set: {addresses.kafka} is used, and none is started; unset it to start one\n"
            )
            assert second.stdout.readline().startswith("# MIND_DIST_MILVUS is set: ")
        first.send_signal(signal.SIGINT)
        first.wait(60)
    with StackJob(tmp_path / "third", **given).up() as third:
        assert third.wait(60) == 2
        assert third.stderr is not None
        assert third.stderr.read() == (
            f"error: MIND_DIST_KAFKA: is set, and nothing answers at {addresses.kafka}: "
            "unset it, and the stack starts its own\n"
        )


HOMES = ["", *([str(KAFKA_HOME)] if KAFKA_HOME.is_dir() else [])]


@pytest.mark.parametrize("kafka_home", HOMES, ids=["tansu", "kafka"][: len(HOMES)])
def test_a_stack_goes_on_where_the_last_one_in_its_directory_stopped(tmp_path: Path, kafka_home: str) -> None:
    stack = StackJob(tmp_path, **({"KAFKA_HOME": kafka_home} if kafka_home else {}))
    config = KafkaConfig("clicks")  # the stack has made the default topic, with partitions of its own number
    with stack.ready() as (job, first):
        ensure_topics(first.kafka, {config.topic: 2})
        send(first.kafka, config, range(1000))
        taken = read(first.kafka, config, 400)
        with closing(MilvusVectorStore(first.milvus, MilvusConfig())) as store:
            store.create_version(INFO)
            store.upsert_users(VERSION, [user_row(7)])
            store.activate(VERSION)
        end(job, signal.SIGINT)
    with stack.ready() as (job, second):
        assert second == first
        taken += read(second.kafka, config, 1000 - len(taken))
        assert len(taken) == len(set(taken)) == 1000
        send(second.kafka, config, range(1000, 2000))
        taken += read(second.kafka, config, 400)
        with closing(MilvusVectorStore(second.milvus, MilvusConfig())) as store:
            assert_has_users(store, 7)
            store.upsert_users(VERSION, [user_row(8)])
        end(job, signal.SIGKILL)
    with stack.ready() as (_, third):
        assert third == first
        taken += read(third.kafka, config, 2000 - len(taken))
        assert len(taken) == len(set(taken)) == 2000
        with closing(MilvusVectorStore(third.milvus, MilvusConfig())) as store:
            assert_has_users(store, 7, 8)


def end(job: subprocess.Popen[str], number: signal.Signals) -> None:
    job.send_signal(number)
    job.wait(60)


def send(kafka: str, config: KafkaConfig, numbers: range) -> None:
    with closing(EventProducer(kafka, config)) as producer:
        for number in numbers:
            producer.send(number % 9, number, number)


def assert_has_users(store: MilvusVectorStore, *user_keys: int) -> None:
    assert store.active_version() == VERSION
    found = store.get_users(VERSION, user_keys, strong=True)
    assert {key: row.behaviors.tolist() for key, row in found.items()} == {key: [1, 2] for key in user_keys}


def read(kafka: str, config: KafkaConfig, least: int) -> list[tuple[int, int]]:
    """Return the places of the records that a group reads next, and commit them."""
    places: list[tuple[int, int]] = []
    deadline_s = time.monotonic() + 60
    with closing(KafkaSource(kafka, config, "group", partitions=range(2))) as source:
        while len(places) < least:
            assert time.monotonic() < deadline_s, f"{len(places)} of {least} records came"
            places += [(record.partition, record.offset) for record in source.poll(0.5)]
        source.commit(source.position())
    return places


def user_row(user_key: int) -> UserRow:
    vectors, weights = np.ones((1, 4), np.float32), np.ones(1, np.float32)
    behaviors, profile = np.array([1, 2]), np.zeros(0, np.int64)
    return UserRow(user_key, vectors, weights, behaviors, behaviors * 10, profile, 0, 1, 1, VERSION)


def test_a_second_stack_in_a_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    stack = StackJob(tmp_path)
    with stack.ready() as (job, _), stack.up() as second:
        _, said = second.communicate(timeout=60)
        problem = (
            f"error: directory: process {job.pid} runs a stack in {tmp_path}: stop it, or give another --directory"
        )
        assert (second.returncode, said) == (2, f"{problem}\n")


def test_a_port_of_the_last_start_that_somebody_has_now_is_one_line(tmp_path: Path) -> None:
    stack = StackJob(tmp_path)
    [port] = kept_ports(tmp_path, "Milvus", 1)
    with socket.create_server(("127.0.0.1", port)), stack.up() as job:
        _, said = job.communicate(timeout=60)
    [line] = said.splitlines()
    assert line.startswith(f"error: port {port} at 127.0.0.1, wanted for Milvus, is held by process {os.getpid()} (")
    assert line.endswith("stop it, or start in another directory")
    assert job.returncode == 1


def test_a_broker_on_files_loses_nothing_of_what_many_write_at_once(tmp_path: Path) -> None:
    store = tansu_object_store(tmp_path)
    with store, tansu(tmp_path, object_store=store) as broker:
        ensure_topics(broker.address, {"behavior-events": 1})

        def write(writer: int) -> None:
            with closing(EventProducer(broker.address, KafkaConfig())) as producer:
                for number in range(60):
                    producer.send(writer, number, number)
                    producer.flush()

        with ThreadPoolExecutor() as threads:
            list(threads.map(write, range(4)))
        with closing(KafkaSource(broker.address, KafkaConfig(), "group", partitions=[0])) as source:
            assert source.end_positions() == {0: 240}


def test_kafka_and_tansu_refuse_a_home_that_is_none_and_start_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KAFKA_HOME"):
        apache_kafka(tmp_path, tmp_path)
    with tansu(tmp_path) as broker, pytest.raises(ConfigError, match="there is no topic 'nothing'"):
        num_partitions(broker.address, "nothing")
