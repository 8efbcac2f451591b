"""Waiting for a Ray cluster; connecting to a real one is what the integration tests do."""

from __future__ import annotations

import socket

import pytest

from jobs.cli import _await_cluster
from mind_dist.errors import ServiceUnavailable


def test_no_cluster_is_one_line_with_address_and_waited_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match=f"Ray at {address} did not answer within 0 s"):
            _await_cluster(address, timeout_s=0.3)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_listening_address_is_taken(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _await_cluster(f"{scheme}127.0.0.1:{server.getsockname()[1]}", timeout_s=5)
        server.settimeout(5)
        asked, _ = server.accept()  # TimeoutError where nobody asked
        with asked:
            assert asked.recv(1) == b""  # and it let go at once


def test_an_address_without_a_port_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **_: asked.append(arguments))
    _await_cluster("auto")
    assert asked == []
