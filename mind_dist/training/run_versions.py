"""The versions that a run has saved: which one to go on from, and which are kept.

The run's directory is the only truth: `checkpoint_STEP/` for each version, and `versions.json`, which names the versions
that are kept. So a version that is gone is missed by name, and a directory that a crash left in the middle of a save,
which `versions.json` does not name, is not taken for a damaged version.

Ray Train is told metrics, and no checkpoints. It would keep a list of its own, refuse to start for ever where one of
them is gone, and fail in the middle of a run when it comes to delete one that is gone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mind_dist.checkpoint import MANIFEST, ModelVersion
from mind_dist.errors import VersionError
from mind_dist.storage import Directory
from mind_dist.strict_json import from_json, to_json

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"checkpoint_[0-9]+")
_SAVED = re.compile(r"(checkpoint_[0-9]+)/.*")
_SEALED = re.compile(r"(checkpoint_[0-9]+)/manifest\.json")
_NAMES = "versions.json"
_OF_RAY = "checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints, as runs of earlier releases left it."""


@dataclass(frozen=True)
class FoundVersion:
    """A version that is whole.

    Attributes:
        version: It; None where the run has saved nothing.
        damaged: Each one that would have been taken before it, and what is wrong with it.
    """

    version: ModelVersion | None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunVersions:
    """The versions of one run.

    Attributes:
        directory: The run's directory.
    """

    directory: Directory

    def newest_whole(self, *, verify: bool = True) -> FoundVersion:
        """Verify the versions, the newest first, and return the first one that is whole.

        Without `verify` their manifests alone are read, which is enough to tell which version it would be.

        Raises:
            VersionError: There are versions, or there have been, and none of them is whole.
        """
        damaged: list[str] = []
        for name in self._newest_first():
            try:
                version = ModelVersion.open((self.directory / name).uri, verify=verify)
            except VersionError as error:
                damaged.append(str(error))
            else:
                return FoundVersion(version, tuple(damaged))
        if damaged:
            advice = "restore one of them, train under another name, or delete the run's directory to begin anew, "
            advice += "but for `published`, which replicas load"
            raise VersionError(self.directory.uri, f"no saved version is whole: {'; '.join(damaged)}; {advice}")
        return FoundVersion(None)

    def best_whole(self, *, verify: bool = True) -> FoundVersion:
        """Return the version with the best valid recall, where valid users watched the run; else the newest.

        Args:
            verify: As for `newest_whole`.

        Raises:
            VersionError: There are versions, or there have been, and none of them is whole.
        """
        newest = self.newest_whole(verify=verify)
        best_step = newest.version.manifest.watch.best_step if newest.version else 0
        if not best_step:
            return newest
        try:
            return FoundVersion(ModelVersion.open(self.place(best_step).uri, verify=verify), newest.damaged)
        except VersionError as error:
            return FoundVersion(newest.version, (*newest.damaged, str(error)))

    def has(self, step: int) -> bool:
        """Tell whether there is a sealed version of a step."""
        return self.place(step).exists(MANIFEST)

    def go_on_from(self, version: ModelVersion) -> None:
        """Take a version as the newest: later ones are damaged, and are no versions of the run any more.

        Their manifests get another name, so that none of them is taken for the newest if it should become readable
        again while the run has gone on from an earlier one. `clear` and `keep` delete what is left of them.
        """
        step = version.manifest.step
        for name in self._on_disk(_SEALED):
            if _step(name) > step:
                (self.directory / name).rename(MANIFEST, f"damaged-{MANIFEST}")
        self._record({name for name in self._named() | self._on_disk(_SEALED) if _step(name) <= step})

    def place(self, step: int) -> Directory:
        """Return the directory of the version of a step."""
        return self.directory / _name(step)

    def clear(self, step: int) -> None:
        """Make room for the version of a step: delete what a crash or damage has left there."""
        self.place(step).delete()

    def keep(self, step: int, num_to_keep: int, best_step: int = 0) -> None:
        """Record a version that has been sealed, and delete those before it that are too many.

        Args:
            step: Of the version.
            num_to_keep: Newest versions that are kept.
            best_step: Of the best version, which is kept beside them; 0 where none is known to be.
        """
        *older, newest = sorted(self._named() | {_name(step)}, key=_step)
        recent = older[len(older) + 1 - num_to_keep :]
        kept = {*recent, newest, *({_name(best_step)} & set(older))}
        self._record(kept)
        for name in self._on_disk(_SAVED):
            if _step(name) < step and name not in kept:
                self._delete(name)

    def forget_ray(self) -> None:
        """Delete Ray Train's own list of checkpoints, with which it would refuse to start where one is gone."""
        (self.directory / _OF_RAY).delete()

    def _newest_first(self) -> list[str]:
        return sorted(self._named() | self._on_disk(_SEALED), key=_step, reverse=True)

    def _named(self) -> set[str]:
        """Return the names of the versions that were kept at the last save."""
        try:
            found = from_json(self.directory.read_bytes(_NAMES))["versions"]
            names = {_VERSION.fullmatch(name) for name in found}
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problem = f"cannot be read: {error}; delete it to go on with the versions that are there"
            raise VersionError((self.directory / _NAMES).uri, problem) from error
        return {name[0] for name in names if name is not None}

    def _on_disk(self, pattern: re.Pattern[str]) -> set[str]:
        return {found[1] for file in self.directory.files() if (found := pattern.fullmatch(file))}

    def _record(self, names: Iterable[str]) -> None:
        self.directory.write_bytes(_NAMES, to_json({"versions": sorted(names)}, indent=2).encode())

    def _delete(self, name: str) -> None:
        try:
            (self.directory / name).delete()
        except OSError as error:  # it is tried again at the next save, and training need not stop for it
            logger.warning("an old version could not be deleted: %s: %s", (self.directory / name).uri, error)


def version_at(uri: str) -> str:
    """Return the URI of a version: the given one, or that of a run's best, or newest, where it names a run's directory.

    It is the one with the best valid recall where the run was watched, as runs on datasets with valid users are.

    Raises:
        VersionError: It names a run, and none of its versions is whole.
    """
    directory = Directory.at(uri)
    if directory.exists(MANIFEST):
        return directory.uri
    found = RunVersions(directory).best_whole()
    for problem in found.damaged:
        logger.warning("a newer or better version is damaged", extra={"fields": {"problem": problem}})
    return found.version.directory.uri if found.version else directory.uri


def _name(step: int) -> str:
    return f"checkpoint_{step:08d}"


def _step(name: str) -> int:
    return int(name.rpartition("_")[2])
