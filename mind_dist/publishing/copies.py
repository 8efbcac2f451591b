"""Published versions of a run, in a place of their own, where they stay as long as the index has them.

A run deletes its older versions at each save. What readers' replicas are to load, whenever one of them starts, is therefore
no directory of the run's, but a copy.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from mind_dist.checkpoint import MANIFEST, ModelVersion, copy_version
from mind_dist.errors import VersionError
from mind_dist.storage import Directory

logger = logging.getLogger(__name__)

_COPY = re.compile(r"(v[0-9]{8,}_[0-9a-f]{8})/.*")
_WAS_ACTIVE = "was_active"


@dataclass(frozen=True)
class PublishedCopies:
    """Copies of one run's versions for one index; who changes them has the lock of that index's publishers.

    Attributes:
        directory: `MODEL_VERSION/` for each. No other index may have its copies here: it would have others to keep.
    """

    directory: Directory

    def place(self, model_version: str) -> Directory:
        """Return where the copy of a version is, or would be."""
        return self.directory / model_version

    def has(self, model_version: str) -> bool:
        """Tell whether there is a copy of a version."""
        return self.place(model_version).exists(MANIFEST)

    def add(self, version: ModelVersion, on_block: Callable[[], None] = lambda: None) -> ModelVersion:
        """Copy a version, and return the copy.

        Raises:
            VersionError: As for `copy_version`; the run may have deleted the version meanwhile.
        """
        return copy_version(version, self.place(version.manifest.model_version), on_block)

    def note_active(self, model_version: str) -> None:
        """Note that readers were put on a version, where there is a copy of it."""
        if self.has(model_version) and not self.was_active(model_version):
            self.place(model_version).write_bytes(_WAS_ACTIVE, model_version.encode())

    def was_active(self, model_version: str) -> bool:
        """Tell whether readers have been put on a version."""
        return self.place(model_version).exists(_WAS_ACTIVE)

    def saved_ms(self, model_version: str) -> int:
        """Return when a version was saved by its run, which steps do not tell of a run begun anew; 0 without a copy."""
        try:
            return ModelVersion.open(self.place(model_version).uri, verify=False).manifest.created_ms
        except VersionError:
            return 0

    def keep_only(self, model_versions: Collection[str]) -> tuple[str, ...]:
        """Remove the copies of all other versions, half ones as well, and return which."""
        there = {found[1] for file in self.directory.files() if (found := _COPY.fullmatch(file))}
        return tuple(each for each in sorted(there - set(model_versions)) if self._remove(each))

    def _remove(self, model_version: str) -> bool:
        place = self.place(model_version)
        try:
            (place / MANIFEST).delete()  # first: what is left of a removal that was cut off is no version
            place.delete()
        except OSError as error:  # it is tried again behind the next publish
            logger.warning("the copy of a retired version could not be removed: %s: %s", place.uri, error)
            return False
        return True
