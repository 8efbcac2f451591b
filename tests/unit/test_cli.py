import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.cli import check_output, read_settings, run, stop_requested, write_output
from mind_dist.config import GruConfig, LagKernelsConfig, ModelConfig, TwoTowerConfig
from mind_dist.errors import ConfigError, DatasetError, ServiceUnavailable


@dataclass(frozen=True)
class Job:
    """A job for this test."""

    name: str
    """Its name."""
    model: ModelConfig = field(default_factory=ModelConfig)


def exit_code(main: object, arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as stopped:
        run(Job, main, arguments)  # type: ignore[arg-type]
    return stopped.value.code


def test_a_job_that_returns_nothing_exits_with_0() -> None:
    seen: list[Job] = []
    assert exit_code(seen.append, ["--name", "a", "--model.dim", "8"]) == 0
    assert seen[0].model.dim == 8


def test_a_known_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Job) -> None:
        raise DatasetError("/data", "no manifest.json")

    assert exit_code(fail, ["--name", "a"]) == 1
    assert capsys.readouterr().err == "error: /data: no manifest.json\n"


@pytest.mark.parametrize("service", ["Kafka", "Milvus"])
def test_who_has_told_nobody_where_a_service_is_hears_how(
    service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Job) -> None:
        raise ServiceUnavailable(service, "127.0.0.1:9", 30.0)

    variable = f"MIND_DIST_{service.upper()}"
    monkeypatch.delenv(variable, raising=False)
    assert exit_code(fail, ["--name", "a"]) == 1
    told = f"error: {service} at 127.0.0.1:9 did not answer within 30 s"
    advice = f"; {variable} says where it is, and is not set: `python -m jobs.stack up` prints what to export"
    assert capsys.readouterr().err == f"{told}{advice}\n"
    monkeypatch.setenv(variable, "127.0.0.1:9")
    assert exit_code(fail, ["--name", "a"]) == 1
    assert capsys.readouterr().err == f"{told}\n"


@pytest.mark.parametrize(
    "arguments", [["--name", "a", "--model.dim", "0"], ["--nmae", "a"], ["--name", "a", "--config"]]
)
def test_a_wrong_setting_exits_with_2(arguments: list[str]) -> None:
    assert exit_code(lambda _: None, arguments) == 2


def test_an_interrupted_job_exits_with_130() -> None:
    def interrupted(_: Job) -> None:
        raise KeyboardInterrupt

    assert exit_code(interrupted, ["--name", "a"]) == 130


def test_a_bug_keeps_its_traceback() -> None:
    def bug(_: Job) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Job, bug, ["--name", "a"])


def test_the_command_line_wins_over_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"name": "from file", "model": {"dim": 8, "num_interests": 2}}))
    job = read_settings(Job, ["--config", str(path), "--model.dim", "16"])
    assert (job.name, job.model.dim, job.model.num_interests) == ("from file", 16, 2)


def test_an_unknown_key_in_the_config_file_has_its_dotted_path(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"name": "a", "model": {"wdith": 8}}))
    with pytest.raises(ConfigError, match=r"job\.json\.model\.wdith: unknown setting"):
        read_settings(Job, ["--config", str(path)])


def test_sigterm_is_remembered_not_obeyed_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stopping = stop_requested()
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_recipe_sets_what_the_command_line_does_not() -> None:
    recipes = {"small": lambda: Job("small", ModelConfig(dim=4, num_interests=2))}
    job = read_settings(Job, ["--recipe", "small", "--model.dim", "8"], recipes)
    assert job == Job("small", ModelConfig(dim=8, num_interests=2))
    with pytest.raises(ConfigError, match="'large' is none; there are small"):
        read_settings(Job, ["--recipe", "large"], recipes)
    with pytest.raises(ConfigError, match="not both"):
        read_settings(Job, ["--recipe", "small", "--config", "job.json"], recipes)
    with pytest.raises(ConfigError, match="needs a name"):
        read_settings(Job, ["--recipe"], recipes)


@pytest.mark.parametrize("options", [["--model.encoder.kind", "gru"], ["--model.encoder.kind=gru"]])
def test_the_command_line_chooses_the_kind_of_a_section_and_sets_what_that_kind_has(options: list[str]) -> None:
    recipes = {"small": lambda: Job("small", ModelConfig(encoder=LagKernelsConfig(), dim=4))}
    changed = [*options, "--model.encoder.layers", "2", "--model.dim", "8"]
    expected = ModelConfig(encoder=GruConfig(layers=2), dim=8)
    assert read_settings(Job, ["--name", "a", *changed]) == Job("a", expected)
    assert read_settings(Job, ["--recipe", "small", *changed], recipes) == Job("small", expected)
    same = ["--recipe", "small", "--model.encoder.kind", "lag_kernels", "--model.encoder.count", "3"]
    assert read_settings(Job, same, recipes).model.encoder == LagKernelsConfig(count=3)


def test_a_kind_may_need_other_settings_that_follow_it() -> None:
    arguments = ["--name", "a", "--model.extraction.kind", "two_tower", "--model.num-interests", "1"]
    assert read_settings(Job, arguments).model == ModelConfig(TwoTowerConfig(), num_interests=1)
    with pytest.raises(SystemExit, match="2"):
        read_settings(Job, arguments[:-2])


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"encoder\.kind: 'rnn' is none; there are none, lag_kernels, gru, transformer"
    ):
        read_settings(Job, ["--name", "a", "--model.encoder.kind", "rnn"])
    for arguments in (["--model.kind", "mind"], ["--encoder.kind", "gru"], ["--model.encoder.count", "3"]):
        with pytest.raises(SystemExit, match="2"):
            read_settings(Job, ["--name", "a", *arguments])


def test_settings_are_read_from_toml_too(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('name = "from file"  # a comment\n[model]\ndim = 8\nnum_interests = 2\n')
    job = read_settings(Job, ["--config", str(path), "--model.dim", "16"])
    assert (job.name, job.model.dim, job.model.num_interests) == ("from file", 16, 2)
    path.write_text("name = 'a'\n[model]\nwdith = 8\n")
    with pytest.raises(ConfigError, match=r"job\.toml\.model\.wdith: unknown setting"):
        read_settings(Job, ["--config", str(path)])


def test_a_config_file_that_cannot_be_read_is_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.toml").write_text("name =")
    for name, language in (("absent.json", "JSON"), ("torn.toml", "TOML")):
        with pytest.raises(ConfigError, match=f"^{tmp_path}/{name}: cannot be read as {language}: "):
            read_settings(Job, ["--config", name])


def test_an_example_is_printed_instead_of_running(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(Job, lambda _: 3, ["--example"], example="name = 'a'\n")
    assert (stopped.value.code, capsys.readouterr().out) == (0, "name = 'a'\n")
    assert exit_code(lambda _: None, ["--example"]) == 2


def test_a_submitted_job_writes_to_no_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output("output", "data/mine")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for path in ("", "/data/mine", "~/mine", "s3://bucket/mine", "file:///mine"):
        check_output("output", path)
    with pytest.raises(ConfigError) as stopped:
        check_output("output", "data/mine")
    assert str(stopped.value) == (
        f"output: 'data/mine' is relative to {tmp_path}, a directory of the cluster that may be deleted with the job: "
        "give an absolute path or a URI"
    )


def test_a_result_is_written_below_new_directories_and_to_uris(tmp_path: Path) -> None:
    write_output(f"{tmp_path}/a/b.json", "1")
    write_output(f"file://{tmp_path}/c/d.json", "2")
    assert [(tmp_path / name).read_text() for name in ("a/b.json", "c/d.json")] == ["1", "2"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "jobs.stack", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        job.stdout.close()  # before anything is written, as `| true` does
        assert job.stderr is not None
        assert job.stderr.read() == ""
        assert job.wait(60) == 128 + signal.SIGPIPE


def test_a_broken_pipe_elsewhere_is_a_bug_and_keeps_its_traceback() -> None:
    def bug(_: Job) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(Job, bug, ["--name", "a"])
