"""TCP ports of this machine: free ones, who listens on one, and taking one before a server binds it.

A server that sets SO_REUSEPORT, as Ray Serve's HTTP proxy does, binds a port that another one has already: the kernel
then gives connections to either. So every port is taken here first.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mind_dist.errors import ConfigError, PortInUse

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 1.0
_TIME_WAIT_S = 65.0
_BIND_AGAIN_S = 0.5
_LONGEST_COMMAND = 60


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def listeners(port: int) -> set[int]:
    """Return the processes that listen on a TCP port of this machine (Linux; those we may look into)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    return {pid for link, pid in _open_sockets() if link in inodes} if inodes else set()


def _open_sockets() -> list[tuple[str, int]]:
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.append((str(descriptor.readlink()), int(descriptor.parts[2])))
        except OSError:  # closed meanwhile, or another user's
            continue
    return found


def check_port(host: str, port: int, *, purpose: str, advice: str) -> None:
    """Return when nobody has a port.

    Args:
        host: Address that a server is about to bind; 0.0.0.0 for all of them.
        port: Its port; 0, any free one, is always fine.
        purpose: What the port is for, for the message.
        advice: How to choose another port, for the message.

    Raises:
        PortInUse: Somebody has it, or is about to.
        ConfigError: It cannot be bound for another reason, such as an address that is not this machine's.
    """
    if not port:
        return
    try:
        with _socket(host) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an ended server's connections do not count
            probe.bind((host, port))
        is_held = is_open(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(purpose, f"{host}:{port} cannot be bound ({error}): {advice}") from error
        is_held = True
    if is_held:
        raise PortInUse(purpose, host, port, _holder(port), advice)


@contextmanager
def reserved_port(host: str, port: int, *, purpose: str, advice: str) -> Iterator[None]:
    """Take a port for a server that binds it with SO_REUSEPORT inside the `with` block.

    Meanwhile `check_port` refuses the port to every other process, so two that start together cannot share it.

    Args:
        host: As for `check_port`.
        port: As for `check_port`.
        purpose: As for `check_port`.
        advice: As for `check_port`.

    Raises:
        PortInUse: Somebody has it, or is about to.
        ConfigError: As for `check_port`.
    """
    check_port(host, port, purpose=purpose, advice=advice)
    with _socket(host) as holder:  # bound and never listening: it gets no connections
        if port:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind_when_free(holder, host, port, purpose=purpose, advice=advice)
        yield


def _bind_when_free(holder: socket.socket, host: str, port: int, *, purpose: str, advice: str) -> None:
    """Bind a port that nobody listens on; the connections of a server that just ended hold it for up to a minute.

    SO_REUSEADDR would not wait for them, but a socket with it does not keep others from the port either.
    """
    give_up_s = time.monotonic() + _TIME_WAIT_S
    waiting = False
    while True:
        try:
            holder.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if time.monotonic() > give_up_s:
                raise PortInUse(purpose, host, port, _holder(port), advice) from error
            if not waiting:
                fields = {"port": port, "at_most_s": _TIME_WAIT_S}
                logger.warning("waiting for the connections of an ended server to time out", extra={"fields": fields})
            waiting = True
            time.sleep(_BIND_AGAIN_S)
        else:
            return


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def is_open(host: str, port: int) -> bool:
    """Tell whether a connection is accepted: forwarded ports, as containers have, need no process that listens."""
    try:
        socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), _CONNECT_TIMEOUT_S).close()  # noqa: S104 - compared, not bound
    except OSError:
        return False
    return True


def _holder(port: int) -> str:
    """Name the processes that listen on a port, as far as this user may see them."""
    return ", ".join(f"process {pid} ({_command(pid)})" for pid in sorted(listeners(port)))


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # ended meanwhile
        return "ended"
    return words if len(words) <= _LONGEST_COMMAND else f"{words[:_LONGEST_COMMAND]}…"


def is_local(address: str) -> bool:
    """Tell whether an address is one of this machine's.

    >>> is_local("127.0.0.1"), is_local("192.0.2.77")
    (True, False)
    """
    try:
        with _socket(address) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a server bound to a host is reached from this machine alone; a name must lead to such addresses only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    if not host:
        return False
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
