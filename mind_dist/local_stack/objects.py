"""A folder as an S3 bucket, for the local broker to keep its records in: `python objects.py FOLDER PORT`.

Tansu, as it is packaged, keeps records in memory or in S3. This is as much of S3 as it asks for: conditional writes, reads,
lists, deletes; one bucket, no authentication, on 127.0.0.1 alone. An object is a file, replaced as a whole, so a process
killed at any time leaves the old content or the new; a machine that loses power may lose the last seconds.
Started by path and on the standard library alone, so it is up in some 50 ms.
"""

from __future__ import annotations

import re
import secrets
import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "tansu"
_TEMPORARY = ".writing-"
_RANGE = re.compile(r"bytes=(?P<first>[0-9]*)-(?P<last>[0-9]*)")


class Refused(Exception):
    """A request that cannot be done; carries the HTTP status and S3's name of the reason."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Entry:
    """What is known of an object without reading it."""

    size: int
    modified_s: float
    etag: str


class Objects:
    """The objects of a folder, by key; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._entries = {str(path.relative_to(folder)): _entry(path) for path in _files(folder)}
        self._keys = sorted(self._entries)

    def put(self, key: str, content: bytes, *, if_match: str | None, if_none_match: str | None) -> Entry:
        """Replace an object as a whole, where it is as the caller last saw it."""
        path = self._path(key)
        with self._lock:
            there = self._entries.get(key)
            if (if_none_match == "*" and there) or (if_match and (there is None or if_match != f'"{there.etag}"')):
                raise Refused(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{_TEMPORARY}{path.name}")
            temporary.write_bytes(content)
            temporary.replace(path)
            self._entries[key] = entry = _entry(path)
            if there is None:
                insort(self._keys, key)
        return entry

    def get(self, key: str) -> tuple[Entry, bytes]:
        """Return an object and its content."""
        with self._lock:
            return self.entry(key), self._path(key).read_bytes()

    def entry(self, key: str) -> Entry:
        """Return what is known of an object."""
        if key not in self._entries:
            raise Refused(HTTPStatus.NOT_FOUND, "NoSuchKey")
        return self._entries[key]

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._lock:
            if self._entries.pop(key, None) is not None:
                self._keys.remove(key)
                self._path(key).unlink()

    def list(self, prefix: str) -> list[tuple[str, Entry]]:
        """Return the objects whose keys begin with `prefix`, in order."""
        with self._lock:
            found = []
            for key in self._keys[bisect_left(self._keys, prefix) :]:
                if not key.startswith(prefix):
                    break
                found.append((key, self._entries[key]))
            return found

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or {".", ".."} & set(parts) or parts[-1].startswith(_TEMPORARY):
            raise Refused(HTTPStatus.BAD_REQUEST, "InvalidArgument")
        return self._folder.joinpath(*parts)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.name.startswith(_TEMPORARY):
            path.unlink()  # a write that its process did not live to finish
        elif path.is_file():
            yield path


def _entry(path: Path) -> Entry:
    """Describe a file under a tag that no other content of it ever has: times of files are too coarse for that."""
    found = path.stat()
    return Entry(found.st_size, found.st_mtime, secrets.token_hex(8))


@dataclass(frozen=True)
class Answer:
    """What a request is answered with; `entry` becomes headers."""

    status: int = 200
    content: bytes = b""
    entry: Entry | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers, of which the length of an object stands without its content, too."""
        if self.entry is None:
            return {"Content-Length": str(len(self.content)), "Content-Type": "application/xml"}
        modified = formatdate(self.entry.modified_s, usegmt=True)
        return {
            "Content-Length": str(self.entry.size if self.status == HTTPStatus.OK else len(self.content)),
            "ETag": f'"{self.entry.etag}"',
            "Last-Modified": modified,
        }


class Handler(BaseHTTPRequestHandler):
    """Answers S3's requests from `objects`."""

    objects: ClassVar[Objects]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """PutObject."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._respond(lambda key: self._put(key, content))

    def do_GET(self) -> None:
        """GetObject, or ListObjectsV2 of the bucket."""
        self._respond(lambda key: self._get(key) if key else Answer(content=self._listed()))

    def do_HEAD(self) -> None:
        """HeadObject."""
        self._respond(lambda key: Answer(entry=self.objects.entry(key)))

    def do_DELETE(self) -> None:
        """DeleteObject."""
        self._respond(self._delete)

    def do_POST(self) -> None:
        """DeleteObjects."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._respond(lambda _key: self._delete_all(content))

    def log_message(self, *_: object) -> None:
        """Log nothing: a line a request would be the largest file of the stack."""

    def _put(self, key: str, content: bytes) -> Answer:
        if self._query() or "x-amz-copy-source" in self.headers:
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")
        conditions = {"if_match": self.headers.get("If-Match"), "if_none_match": self.headers.get("If-None-Match")}
        entry = self.objects.put(key, content, **conditions)
        return Answer(entry=Entry(0, entry.modified_s, entry.etag))

    def _get(self, key: str) -> Answer:
        entry, content = self.objects.get(key)
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None:
            return Answer(HTTPStatus.OK, content, entry)
        first, last = wanted["first"], wanted["last"]
        part = content[int(first) : int(last) + 1 if last else None] if first else content[-int(last) :]
        return Answer(HTTPStatus.PARTIAL_CONTENT, part, entry)

    def _delete(self, key: str) -> Answer:
        self.objects.delete(key)
        return Answer(HTTPStatus.NO_CONTENT)

    def _delete_all(self, content: bytes) -> Answer:
        if "delete" not in self._query():
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")
        for key in re.findall(r"<Key>(.*?)</Key>", content.decode()):
            self.objects.delete(unescape(key))
        return Answer(content=b"<DeleteResult/>")

    def _listed(self) -> bytes:
        query = self._query()
        if query.get("list-type") != "2":
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents: list[str] = []
        groups: dict[str, None] = {}
        for key, entry in self.objects.list(prefix):
            group, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                groups[f"{prefix}{group}{delimiter}"] = None
            else:
                modified = datetime.fromtimestamp(entry.modified_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
                    f"<ETag>&quot;{entry.etag}&quot;</ETag><Size>{entry.size}</Size></Contents>"
                )
        common = [f"<CommonPrefixes><Prefix>{escape(group)}</Prefix></CommonPrefixes>" for group in groups]
        body = "".join([*contents, *common])
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{body}</ListBucketResult>".encode()

    def _respond(self, act: Callable[[str], Answer]) -> None:
        try:
            answer = act(self._key())
        except Refused as error:
            answer = Answer(error.status, f"<Error><Code>{error.code}</Code></Error>".encode())
        self.send_response(answer.status)
        for name, value in answer.headers().items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def _key(self) -> str:
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if bucket != BUCKET:
            raise Refused(HTTPStatus.NOT_FOUND, "NoSuchBucket")
        return key

    def _query(self) -> dict[str, str]:
        parsed = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {
            name: values[0] for name, values in parsed.items() if name != "x-id"
        }  # names the operation, says nothing


def main(folder: Path, port: int) -> None:
    """Serve a folder until killed."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = type("FolderHandler", (Handler,), {"objects": Objects(folder)})
    ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
