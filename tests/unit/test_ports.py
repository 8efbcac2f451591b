"""Ports are probed before anything binds them, and by whom one is held is told."""

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mind_dist.errors import ConfigError, PortInUse
from mind_dist.ports import check_port, free_ports, listeners, reserved_port


def check(port: int, host: str = "127.0.0.1") -> None:
    check_port(host, port, purpose="HTTP", advice="give another with --serving.port")


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def shared(request: pytest.FixtureRequest, port: int) -> Iterator[socket.socket]:
    """A server that would share its port, as Ray Serve's proxy does."""
    with sharing_socket(request.param, port) as server:
        server.listen()
        yield server


def sharing_socket(host: str, port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, port))
    return server


def test_a_free_port_and_any_port_are_fine(port: int) -> None:
    check(port)
    check(port, "0.0.0.0")
    check(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_its_holder_would_share_is_refused_with_the_holders_name(
    shared: socket.socket, port: int, host: str
) -> None:
    program = re.escape(Path("/proc/self/cmdline").read_text().split("\0")[0])
    expected = rf"port {port} at {re.escape(host)}, wanted for HTTP, is held by process {os.getpid()} \({program}.*\): "
    with pytest.raises(PortInUse, match=expected + r"stop it, or give another with --serving\.port$"):
        check(port, host)
    assert listeners(port) == {os.getpid()}
    assert shared.fileno() >= 0


def test_a_port_that_was_just_left_is_free(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
        server.accept()[0].close()  # the server's end closes first and so lingers in TIME_WAIT
    check(port)


def test_a_reserved_port_is_refused_to_others_and_open_to_a_server_that_shares_it(port: int) -> None:
    with reserved_port("127.0.0.1", port, purpose="HTTP", advice="wait"):
        with pytest.raises(PortInUse, match=f"port {port} .* held by another process"):
            check(port)
        with sharing_socket("127.0.0.1", port) as server:
            server.listen()
            for _ in range(20):  # none goes to the socket that reserves the port
                with socket.create_connection(("127.0.0.1", port), timeout=5):
                    server.accept()[0].close()
    check(port)


def test_a_port_is_reserved_once_the_connections_of_an_ended_server_are_gone(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        served = server.accept()[0]

    def end() -> None:
        client.close()  # first, so that nothing of it lingers at the port
        served.recv(1)
        served.close()

    check(port)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    timer = threading.Timer(0.7, end)
    timer.start()
    with reserved_port("127.0.0.1", port, purpose="HTTP", advice="wait"):
        timer.join()


def test_an_address_that_is_not_this_machines_is_named(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"HTTP: 192\.0\.2\.77:{port} cannot be bound .*give another"):
        check(port, "192.0.2.77")
