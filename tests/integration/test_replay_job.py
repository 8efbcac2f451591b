"""`jobs.replay` puts a raw log into a real broker, in time order, and refuses settings that contradict each other."""

from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from jobs.replay import Replay, main
from mind_dist.config import LogConfig
from mind_dist.errors import ConfigError
from mind_dist.log.codec import decode
from mind_dist.log.kafka import KafkaSource, num_partitions
from mind_dist.records import Event
from tests.replicas import kafka_config


def test_a_raw_log_arrives_in_order_in_topics_the_job_made(
    tansu_broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
    log = tmp_path / "log.csv"
    log.write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"{n % 5},{n},{1_700_001_000 - n}\n" for n in range(200))
        + "x,1,1700000000\n"
    )
    kafka = kafka_config(f"events-{uuid4().hex}")
    job = Replay(log=LogConfig((str(log),), "csv"), rate=2000, partitions=3, kafka=kafka)
    assert main(job) == 200
    assert "200 events are in" in capsys.readouterr().out.replace("\n", " ")
    assert num_partitions(tansu_broker, kafka.topic) == 3
    assert num_partitions(tansu_broker, kafka.states_topic) == 3
    assert num_partitions(tansu_broker, kafka.dead_letter_topic) == 1
    times: dict[int, list[int]] = {}
    with closing(KafkaSource(tansu_broker, kafka, "g", partitions=range(3))) as source:
        while sum(map(len, times.values())) < 200:
            for record in source.poll(1):
                event = decode(record, "int64", max_clock_skew_ms=kafka.max_clock_skew_ms)
                assert isinstance(event, Event)
                times.setdefault(event.user_key, []).append(event.timestamp_ms)
    assert len(times) == 5
    assert all(found == sorted(found) for found in times.values())


@pytest.mark.parametrize(
    ("job", "setting"),
    [
        (Replay(), "dataset"),
        (Replay("data", LogConfig(("log",))), "dataset"),
        (Replay(log=LogConfig(("log",)), part="tail"), "part"),
        (Replay("data", rate=1, speed_up=2), "rate"),
        (Replay("data", rate=-1), "rate"),
        (Replay("data", partitions=0), "partitions"),
    ],
)
def test_contradicting_settings_are_named(job: Replay, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"^{setting}: "):
        main(job)
