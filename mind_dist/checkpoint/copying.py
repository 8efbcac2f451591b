"""A version → what publishing and serving need of it in another place: whole there, or not there.

That is all but the users' histories, which training alone reads on: a user who is forgotten must not live on in a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mind_dist.checkpoint.manifest import (
    HISTORIES,
    MANIFEST,
    FileEntry,
    Manifest,
    encode_manifest,
    parse_manifest,
)
from mind_dist.checkpoint.version import ModelVersion
from mind_dist.errors import VersionError
from mind_dist.storage import DigestingStream, Directory

_BLOCK_BYTES = 1 << 20


def copy_version(version: ModelVersion, target: Directory, on_block: Callable[[], None] = lambda: None) -> ModelVersion:
    """Copy a version but for users' histories, each file compared with the manifest before it gets its name, and the manifest last.

    So whatever ends a copy half-way, or deletes the version meanwhile, what is left is no version; the next try writes
    its files anew. What is whole in its place already is left as it is.

    Args:
        version: An opened version; it need not have been verified.
        target: Where to.
        on_block: Called before each block of a file; what it raises ends the copy.

    Raises:
        VersionError: A file of the version is missing or altered, or the copy cannot be written.
    """
    manifest = _without_histories(version.manifest)
    if _is_whole(manifest, target):
        return ModelVersion(target, manifest)
    _check_unchanged(version)
    for name, entry in manifest.files.items():
        _copy_file(version.directory, target, name, entry, on_block)
    try:
        target.write_bytes(MANIFEST, encode_manifest(manifest))
    except OSError as error:
        raise VersionError(target.uri, f"{MANIFEST} cannot be written: {error}") from error
    return ModelVersion(target, manifest)


def _without_histories(manifest: Manifest) -> Manifest:
    files = {name: entry for name, entry in manifest.files.items() if not name.startswith(HISTORIES)}
    return replace(manifest, files=files)


def _is_whole(manifest: Manifest, target: Directory) -> bool:
    try:
        found = ModelVersion.open(target.uri)
    except VersionError:
        return False
    return found.manifest == manifest


def _check_unchanged(version: ModelVersion) -> None:
    """Raise VersionError where another version has come to the same place since this one was opened."""
    uri = version.directory.uri
    try:
        content = version.directory.read_bytes(MANIFEST)
    except OSError as error:
        raise VersionError(uri, f"{MANIFEST} is missing or cannot be read: {error}") from error
    if parse_manifest(uri, content) != version.manifest:
        raise VersionError(uri, "another version has been saved here meanwhile")


def _copy_file(source: Directory, target: Directory, name: str, entry: FileEntry, on_block: Callable[[], None]) -> None:
    try:
        stream = source.open(name)
    except OSError as error:
        raise VersionError(source.uri, f"{name} is missing or cannot be read: {error}") from error
    try:
        with stream, target.create(name) as file:
            copied = DigestingStream(file)
            while block := stream.read(_BLOCK_BYTES):
                on_block()
                copied.write(block)
            if FileEntry(copied.size_bytes, copied.hexdigest()) != entry:
                raise VersionError(
                    source.uri, f"{name} is torn or altered: {copied.size_bytes} bytes, {entry} expected"
                )
    except OSError as error:
        raise VersionError(target.uri, f"{name} cannot be copied here from {source.uri}: {error}") from error
