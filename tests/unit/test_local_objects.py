"""A folder as a bucket: whole objects, conditional writes, lists by prefix, and the same after a restart."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from mind_dist.local_stack.objects import Handler, Objects


class Bucket:
    """Asks a server of a folder."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, f"/tansu{path}", body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def keys(self, query: str) -> list[str]:
        _, body = self.ask("GET", f"?list-type=2&{query}")
        return re.findall(r"<(?:Key|Prefix)>(.*?)</", body.decode())


@contextmanager
def served(folder: Path) -> Iterator[Bucket]:
    handler = type("FolderHandler", (Handler,), {"objects": Objects(folder)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Bucket(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with served(tmp_path) as bucket:
        yield bucket


def test_an_object_is_read_as_it_was_written_also_after_a_restart(tmp_path: Path) -> None:
    with served(tmp_path) as bucket:
        written, _ = bucket.ask("PUT", "/a/b%20c", b"12345")
        assert written.status == 200
        (tmp_path / "a" / ".writing-d").write_bytes(b"half")  # what a killed process leaves
    with served(tmp_path) as bucket:
        read, content = bucket.ask("GET", "/a/b%20c")
        assert (read.status, content) == (200, b"12345")
        assert bucket.ask("PUT", "/a/b%20c", b"x", If_Match=written.headers["ETag"])[0].status == 412  # of another life
        assert read.headers["Last-Modified"].endswith("GMT")
        head, nothing = bucket.ask("HEAD", "/a/b%20c")
        assert (head.status, head.headers["Content-Length"], nothing) == (200, "5", b"")
        part, content = bucket.ask("GET", "/a/b%20c", Range="bytes=1-2")
        assert (part.status, content) == (206, b"23")
        assert bucket.ask("GET", "/a/b%20c", Range="bytes=-2")[1] == b"45"
        assert bucket.keys("") == ["a/b c"]


def test_writes_are_refused_where_the_object_is_not_as_the_writer_knew_it(bucket: Bucket) -> None:
    first, _ = bucket.ask("PUT", "/meta", b"1", If_None_Match="*")
    assert first.status == 200
    assert bucket.ask("PUT", "/meta", b"2", If_None_Match="*")[0].status == 412
    second, _ = bucket.ask("PUT", "/meta", b"2", If_Match=first.headers["ETag"])
    assert second.status == 200
    assert bucket.ask("PUT", "/meta", b"3", If_Match=first.headers["ETag"])[0].status == 412
    assert bucket.ask("PUT", "/other", b"3", If_Match=first.headers["ETag"])[0].status == 412
    assert bucket.ask("GET", "/meta")[1] == b"2"


def test_of_many_writers_that_count_on_what_they_read_none_is_overwritten(bucket: Bucket) -> None:
    bucket.ask("PUT", "/count", b"0")

    def add_one(_: int) -> None:
        while True:
            read, number = bucket.ask("GET", "/count")
            written, _body = bucket.ask("PUT", "/count", b"%d" % (int(number) + 1), If_Match=read.headers["ETag"])
            if written.status == 200:
                return

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_one, range(40)))
    assert bucket.ask("GET", "/count")[1] == b"40"


def test_lists_are_by_prefix_in_order_and_grouped_where_asked(bucket: Bucket) -> None:
    for key in ("t/1/b", "t/1/a", "t/2/a&b", "u"):
        bucket.ask("PUT", f"/{key.replace('&', '%26')}", b"x")
    assert bucket.keys("prefix=t%2F1%2F") == ["t/1/a", "t/1/b"]
    assert bucket.keys("prefix=t%2F2") == ["t/2/a&amp;b"]
    assert bucket.keys("delimiter=%2F") == ["u", "t/"]
    assert bucket.keys("prefix=t%2F&delimiter=%2F") == ["t/1/", "t/2/"]


def test_objects_are_deleted_singly_and_many_at_once(bucket: Bucket) -> None:
    for key in "abc":
        bucket.ask("PUT", f"/{key}", b"x")
    assert bucket.ask("DELETE", "/a")[0].status == 204
    assert bucket.ask("DELETE", "/a")[0].status == 204
    assert bucket.ask("POST", "?delete", b"<Delete><Object><Key>b</Key></Object></Delete>")[0].status == 200
    assert bucket.keys("") == ["c"]
    missing, body = bucket.ask("GET", "/a")
    assert (missing.status, b"NoSuchKey" in body) == (404, True)


@pytest.mark.parametrize("path", ["/../outside", "/a/../../outside", "/a//b", "/.writing-a"])
def test_no_object_lies_outside_the_folder(bucket: Bucket, path: str) -> None:
    assert bucket.ask("PUT", path, b"x")[0].status == 400


def test_what_is_not_there_of_s3_is_refused(bucket: Bucket) -> None:
    assert bucket.ask("POST", "/a?uploads")[0].status == 501
    assert bucket.ask("PUT", "/a?tagging", b"x")[0].status == 501
    assert bucket.ask("GET", "?acl")[0].status == 501
