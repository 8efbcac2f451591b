"""What every job does around its own work: read settings, configure logs, turn errors into exit codes."""

from __future__ import annotations

import inspect
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from mind_dist.config import load, with_kind
from mind_dist.errors import ConfigError, MindDistError, ServiceUnavailable
from mind_dist.observability import configure_logging
from mind_dist.storage import Directory

logger = logging.getLogger("mind_dist.jobs")

J = TypeVar("J")

_IN_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the command of `ray job submit`, and for nothing else."""

_RAY_START_ATTEMPTS = 2
_RAY_START_S = 120


def run(
    job: type[J],
    main: Callable[[J], int | None],
    arguments: list[str] | None = None,
    recipes: Mapping[str, Callable[[], J]] | None = None,
    example: str = "",
) -> None:
    """Parse settings, call `main`, and exit; where there is an example, `--example` prints that instead.

    Settings come from `--config FILE` (TOML or JSON) or `--recipe NAME` where given, then from the command line, which wins.
    Exit codes: 0 done, 1 a known error (one line on standard error), 2 a setting is wrong, 130 interrupted, 141 the
    reader of standard output left, as `head` does; a bug keeps its traceback.
    """
    configure_logging()
    arguments = sys.argv[1:] if arguments is None else arguments
    if example and "--example" in arguments:
        print(example, end="")
        sys.exit(0)
    try:
        try:
            code = main(read_settings(job, arguments, recipes)) or 0
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        code = _fail(error, 2)
    except ServiceUnavailable as error:
        code = _fail(error, 1, _where_from(error))
    except MindDistError as error:
        code = _fail(error, 1)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        if not _reader_left():
            raise
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _reader_left() -> bool:
    """Tell whether nobody reads standard output any more; then nothing more is written to it, not even at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # replaced by something that is no file
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    if not poll.poll(0):  # a pipe without a reader reports an error, whatever is asked for
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def read_settings(job: type[J], arguments: list[str], recipes: Mapping[str, Callable[[], J]] | None = None) -> J:
    """Return a job's settings from a command line, over those of `--config FILE` or of `--recipe NAME`.

    Raises:
        ConfigError: A setting is unknown or not allowed.
    """
    file, arguments = _taken("--config", arguments, "the path of a TOML or JSON file")
    name, arguments = _taken("--recipe", arguments, "a name") if recipes else (None, arguments)
    if file is not None and name is not None:
        raise ConfigError("--recipe", "give it or --config, not both: a file holds all settings")
    default = None if file is None else load(job, Path(file))
    if recipes and name is not None:
        if name not in recipes:
            raise ConfigError("--recipe", f"{name!r} is none; there are {', '.join(recipes)}")
        default = recipes[name]()
    default = _with_kinds(job, default, arguments)
    try:
        prog, sections = f"python -m {_module_of(job)}", (tyro.conf.AvoidSubcommands,)  # of the kind that is set
        return cast(
            "J",
            tyro.cli(job, args=arguments, prog=prog, description=inspect.getdoc(job), default=default, config=sections),
        )
    except ValueError as error:  # a section's own check, reached from the command line
        raise ConfigError("command line", str(error)) from error


def _with_kinds(job: type[J], default: J | None, arguments: list[str]) -> J | None:
    """Return the defaults of a command line with sections of the kinds that it names: `--model.encoder.kind gru`."""
    for at, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        path = option.removeprefix("--").replace("-", "_").split(".")
        if not option.startswith("--") or path[-1] != "kind" or len(path) == 1:
            continue
        chosen = value if equals else "".join(arguments[at + 1 : at + 2])
        needed = [field.name for field in fields(cast("Any", job)) if _is_needed(field)]
        known = job(**dict.fromkeys(needed, tyro.MISSING)) if default is None else default
        with suppress(KeyError):  # no section of several kinds: a setting like others
            default = with_kind(job, known, path[:-1], chosen)
    return default


def _is_needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _taken(option: str, arguments: list[str], value: str) -> tuple[str | None, list[str]]:
    """Return an option's value, None where it is not given, and the arguments without it."""
    if option not in arguments:
        return None, arguments
    at = arguments.index(option)
    if at + 1 == len(arguments):
        raise ConfigError(option, f"needs {value}")
    return arguments[at + 1], arguments[:at] + arguments[at + 2 :]


def _module_of(job: type[object]) -> str:
    """Return the module to name in usage lines: `__main__`'s real name when the job is run with -m."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else job.__module__


def _fail(error: MindDistError, code: int, advice: str = "") -> int:
    print(f"error: {error}{advice}", file=sys.stderr)
    return code


def _where_from(error: ServiceUnavailable) -> str:
    """Return which variable says where a service is, where none does and the default was tried."""
    variable = f"MIND_DIST_{error.service.upper()}"
    if error.service not in ("Kafka", "Milvus") or os.environ.get(variable):
        return ""
    return f"; {variable} says where it is, and is not set: `python -m jobs.stack up` prints what to export"


def check_output(setting: str, path: str) -> None:
    """Refuse a relative output path in a job that `ray job submit` started: it would be lost.

    Call it before the work begins.

    Raises:
        ConfigError: The path is relative, and this is such a job.
    """
    relative = path and "://" not in path and not Path(path).expanduser().is_absolute()
    if relative and _IN_RAY_JOB in os.environ:
        problem = f"{path!r} is relative to {Path.cwd()}, a directory of the cluster that may be deleted with the job"
        raise ConfigError(setting, f"{problem}: give an absolute path or a URI")


def write_output(path: str, content: str) -> None:
    """Write a job's result to a local path or a URI, with the directories above it."""
    Directory.at(path).write_bytes("", content.encode())


def connect_ray(*, show_workers: bool = True) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, which `ray job submit` sets, or start Ray on this machine until exit.

    Ray takes over SIGTERM, so call `stop_requested` after this. Nothing happens when already connected.

    Args:
        show_workers: Repeat here what workers log; it is in Ray's own logs either way.

    Raises:
        ServiceUnavailable: No cluster answers at the address, or Ray does not start here.
    """
    import ray  # noqa: PLC0415 - seconds that jobs without Ray need not wait

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray announces as its next default
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        _start_ray(show_workers)
        return
    started = time.monotonic()
    _await_cluster(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=show_workers)
    except ConnectionError as error:  # something else listens there, or the token is not the cluster's
        raise ServiceUnavailable("Ray", address, time.monotonic() - started, str(error)) from error


def _start_ray(show_workers: bool) -> None:
    """Start Ray on this machine, once more where it fails: on a busy machine its node may miss a bound of 30 s.

    That bound cannot be set; of Ray's other waits, `RAY_raylet_start_wait_time_s` is raised.
    """
    import ray  # noqa: PLC0415 - as in connect_ray

    os.environ.setdefault("RAY_raylet_start_wait_time_s", str(_RAY_START_S))
    started = time.monotonic()
    for attempt in range(_RAY_START_ATTEMPTS):
        try:
            ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=show_workers)
        except Exception as error:
            ray.shutdown()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            if attempt + 1 == _RAY_START_ATTEMPTS:
                advice = "if the machine is busy, try again later or set RAY_ADDRESS to a running cluster"
                problem = f"tried {_RAY_START_ATTEMPTS} times: {reason}; {advice}"
                raise ServiceUnavailable("Ray", "this machine", time.monotonic() - started, problem) from error
            logger.warning("Ray did not start, trying again", extra={"fields": {"error": reason}})
        else:
            return


def _await_cluster(address: str, timeout_s: float = 30.0) -> None:
    """Return when something listens at `host:port`: `ray.init` itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    started = time.monotonic()
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError as error:
            waited_s = time.monotonic() - started
            if waited_s >= timeout_s:
                raise ServiceUnavailable("Ray", address, waited_s, str(error)) from error
            time.sleep(0.2)
        else:
            return


def stop_requested() -> Callable[[], bool]:
    """Return a function that tells whether SIGTERM came: finish what is under way, save, exit 0."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    return lambda: bool(received)


def interactive() -> bool:
    """Tell whether a person is watching: progress bars make sense."""
    return sys.stderr.isatty() and "CI" not in os.environ
