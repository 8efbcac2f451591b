"""`jobs.load_users` puts what is known of users into a real broker, and refuses settings that contradict each other."""

from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from jobs.load_users import LoadUsers, main
from mind_dist.config import LogConfig
from mind_dist.errors import ConfigError
from mind_dist.log.codec import decode
from mind_dist.log.kafka import KafkaSource, num_partitions
from mind_dist.records import History
from tests.replicas import kafka_config


def test_a_raw_logs_users_are_told_each_once_with_the_newest_of_their_behaviors(
    tansu_broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIND_DIST_KAFKA", tansu_broker)
    log = tmp_path / "log.csv"
    log.write_text(
        "user_id,item_id,timestamp,action\n"
        + "".join(f"{n % 5},{n},{1_700_001_000 - n},{('view', 'buy')[n // 5 % 2]}\n" for n in range(200))
        + "x,1,1700000000,view\n"
    )
    kafka = kafka_config(f"events-{uuid4().hex}")
    raw = LogConfig((str(log),), "csv", event_type_column="action")
    assert main(LoadUsers(log=raw, max_behaviors=3, partitions=3, kafka=kafka)) == 5
    said = capsys.readouterr().out.replace("\n", " ")
    assert "what is known of 5 users is in events-" in said
    assert "1 rows were unusable" in said
    assert num_partitions(tansu_broker, kafka.topic) == num_partitions(tansu_broker, kafka.states_topic) == 3
    told: dict[int, History] = {}
    with closing(KafkaSource(tansu_broker, kafka, "", partitions=range(3))) as source:
        source.seek(source.oldest_positions())
        while len(told) < 5:
            for record in source.poll(1):
                history = decode(record, "int64", max_clock_skew_ms=kafka.max_clock_skew_ms)
                assert isinstance(history, History)
                assert history.user_key not in told
                told[history.user_key] = history
    for user, history in told.items():
        assert [event.item_key for event in history.events] == [
            user + 10,
            user + 5,
            user,
        ]  # the newest come first there
        assert history.profile is None


@pytest.mark.parametrize(
    ("job", "setting"),
    [
        (LoadUsers(), "dataset"),
        (LoadUsers("data", LogConfig(("log",))), "dataset"),
        (LoadUsers(log=LogConfig(("log",)), part="inputs"), "part"),
        (LoadUsers("data", part="tail"), "part"),
        (LoadUsers("data", max_behaviors=0), "max_behaviors"),
        (LoadUsers("data", partitions=0), "partitions"),
    ],
)
def test_contradicting_settings_are_named(job: LoadUsers, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"^{setting}: "):
        main(job)
