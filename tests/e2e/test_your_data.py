"""docs/your-data.md as it stands there, on logs as companies have them: from raw files to candidates over HTTP."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import httpx
import pyarrow.parquet as pq
import pytest

from mind_dist.local_process import free_ports
from tests import companies

SERVE = "python -m jobs.serve"
GUIDE = Path(__file__).parents[2] / "docs" / "your-data.md"


class Company:
    """A directory with a company's files, and the services its commands find."""

    def __init__(self, name: str, directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.environment = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.printed = ""

    def follow_the_guide(self) -> None:
        """Write the settings file and run the commands up to serving, as the guide has them."""
        settings, commands = guide(self.name)
        (self.directory / f"{self.name}.toml").write_text(settings)
        for command in commands[: commands.index(SERVE)]:
            self.run(command)

    def load_users(self) -> None:
        """Run the commands that the guide has behind serving."""
        _, commands = guide(self.name)
        for command in commands[commands.index(SERVE) + 1 :]:
            self.run(command)

    def run(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.printed += done.stdout

    @contextmanager
    def serving(self, user_id: int | str) -> Iterator[httpx.Client]:
        """Run `jobs.serve` until the end, and yield a client of it that is ready to answer and knows a user."""
        [port] = free_ports(1)
        settings = f"--serving.port {port} --serving.cpus-per-replica 0.1 --serving.states.directory states"
        command = f"exec {SERVE} {settings}"
        log = (self.directory / "serve.log").open("w")
        with (
            log,
            subprocess.Popen(
                ["bash", "-c", command], cwd=self.directory, env=self.environment, stdout=log, stderr=log
            ) as process,
        ):
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                    wait(lambda: process.poll() is not None or ready(client))
                    assert process.poll() is None, (self.directory / "serve.log").read_text()
                    self.load_users()
                    wait(lambda: client.get(f"/v1/users/{quote(str(user_id), safe='')}/interests").is_success)
                    yield client
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "data" / self.name / "manifest.json").read_text())
        return found

    def metrics(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = json.loads((self.directory / f"{self.name}.json").read_text())["metrics"]
        return found


def guide(name: str) -> tuple[str, list[str]]:
    """Return a company's settings file and its commands, a line each."""
    text = GUIDE.read_text()
    (settings,) = re.findall(rf"```toml\n(# {name}\.toml\n.*?)```", text, re.DOTALL)
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if f"{name}.toml" in block]
    return settings, commands.splitlines()


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def wait(met: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline_s, "it did not come to pass in time"
        time.sleep(0.2)


def retrieve(client: httpx.Client, **wanted: Any) -> list[Any]:
    answer = client.post("/v1/retrieve", json=wanted)
    assert answer.is_success, answer.text
    return [candidate["item_id"] for candidate in answer.json()["candidates"]]


@pytest.fixture
def company(request: pytest.FixtureRequest, ray_cluster: str, tmp_path: Path) -> Iterator[Company]:
    """The company whose name is the parameter, with a broker and a Milvus of its own."""
    assert ray_cluster
    (tmp_path / "raw").mkdir()
    getattr(companies, f"write_{request.param}")(tmp_path / "raw")
    with stack_up(tmp_path / "stack") as environment:
        yield Company(request.param, tmp_path, environment)


@contextmanager
def stack_up(directory: Path) -> Iterator[dict[str, str]]:
    """Run `jobs.stack up` beside the session's Ray, and yield the variables that it prints."""
    command = [sys.executable, "-m", "jobs.stack", "up", "--no-ray", "--directory", str(directory)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIND_DIST_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield dict(re.findall(r"^export (\w+)=(.*)$", _until_up(process.stdout), re.MULTILINE))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _until_up(lines: IO[str]) -> str:
    printed = ""
    while "# up until Ctrl-C" not in printed:
        line = lines.readline()
        assert line, f"the stack ended: {printed}"
        printed += line
    return printed


def beats(metrics: dict[str, dict[str, float]], *others: str) -> bool:
    return all(metrics["model"]["recall@20"] > metrics[other]["recall@20"] for other in others)


@pytest.mark.parametrize("company", ["shop"], indirect=True)
def test_a_shop_goes_from_its_csv_files_to_candidates(company: Company) -> None:
    company.follow_the_guide()
    manifest = company.manifest()
    assert manifest["event_types"] == ["view", "cart", "purchase"]
    assert manifest["num_rejected"] == {"malformed_line": companies.BROKEN_LINES}
    assert manifest["num_duplicates"] > 0
    assert sum(manifest["num_events"].values()) < 12_000  # the bot alone has 6,000 events, of which 2,000 are kept
    assert beats(company.metrics(), "popularity")
    catalog = pq.read_table(company.directory / "data" / "shop" / "items.parquet")
    price = dict(zip(catalog["original_id"].to_pylist(), catalog["price"].to_pylist(), strict=True))
    with company.serving("K-00007") as client:
        cheap = retrieve(client, user_id="K-00007", limit=20, filter={"price": {"lt": 20}})
        assert len(cheap) == 20
        assert all(price[item] is not None and price[item] < 20 for item in cheap)
        unpriced = retrieve(client, user_id="K-00007", limit=5, filter={"price": {"null": True}})
        assert {price[item] for item in unpriced} == {None}
        assert companies.NEVER_BOUGHT in retrieve(client, user_id="K-00007", limit=200)
        seen = cheap[:3]
        now_ms = time.time_ns() // 1_000_000
        events = [
            {"user_id": "K-new/1", "item_id": item, "event_type": "view", "timestamp_ms": now_ms + n}
            for n, item in enumerate(seen)
        ]
        assert client.post("/v1/events", json={"events": events}).status_code == 202
        wait(lambda: client.get("/v1/users/K-new%2F1/interests").is_success)
        known = client.get("/v1/users/K-new/1/interests").json()
        assert known["behaviors"] == seen
        assert not set(seen) & set(retrieve(client, user_id="K-new/1", limit=20))


@pytest.mark.parametrize("company", ["news"], indirect=True)
def test_a_newsroom_is_given_what_is_readable_now_alone(company: Company) -> None:
    company.follow_the_guide()
    metrics = company.metrics()
    assert beats(metrics, "popularity")
    catalog = pq.read_table(company.directory / "data" / "news" / "items.parquet")
    rows = catalog.select(["original_id", "available_from", "available_until"]).to_pylist()
    times = {row["original_id"]: (row["available_from"], row["available_until"]) for row in rows}
    assert len(times) == companies.NEWS.num_items
    with company.serving("reader/7") as client:
        assert retrieve(client, user_id="reader/7", limit=50) == []  # all articles are of the past
        at_ms = company.manifest()["last_ms"]
        found = retrieve(client, user_id="reader/7", limit=50, at_ms=at_ms)
        assert found
        assert all(times[item][0] <= at_ms < times[item][1] for item in found)


@pytest.mark.parametrize("company", ["music"], indirect=True)
def test_a_music_service_gets_tracks_for_integer_ids(company: Company) -> None:
    company.follow_the_guide()
    manifest = company.manifest()
    assert manifest["num_rejected"] == {"timestamp_future": 3}
    assert manifest["id_type"] == "int64"
    assert beats(company.metrics(), "popularity")
    with company.serving(7) as client:
        tracks = retrieve(client, user_id=7, limit=10)
        assert len(tracks) == 10
        assert all(10_000 <= track < 10_000 + companies.MUSIC.num_items for track in tracks)
        assert retrieve(client, user_id=7, limit=10, filter={"genres": {"in": ["genre 1"]}})


def test_the_guide_names_every_company_once() -> None:
    sections: Sequence[str] = re.findall(r"```toml\n# (\w+)\.toml", GUIDE.read_text())
    assert sections == ["shop", "news", "music"]
    for name in sections:
        assert all(shlex.split(command)[:2] == ["python", "-m"] for command in guide(name)[1])
