"""Free loopback ports for engines and components.

In: ports already promised to somebody. Out: one nobody listens on. Chosen below the kernel's range
for outgoing connections, which would otherwise take the port between choice and use. A caller
holds ``state.lock`` around choosing and writing the choice down.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Collection

import psutil

from enova.base.errors import Refused
from enova.effects.drivers import process_table
from enova.effects.drivers.process_table import Identity

FIRST, LAST = 20_000, 32_000


def free_port(taken: Collection[int], *, seed: str, host: str = "127.0.0.1") -> int:
    """A port that can be bound now and is not ``taken``. ``seed`` spreads the first guess.

    Raises Refused when the whole range is in use.
    """
    count = LAST - FIRST
    start = zlib.crc32(seed.encode()) % count
    for step in range(count):
        port = FIRST + (start + step) % count
        if port not in taken and is_free(port, host=host):
            return port
    raise Refused(f"no free port between {FIRST} and {LAST}")


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a port can be bound now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without it, connections of the previous owner that linger in TIME_WAIT block the port;
        # with it, a live listener still does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def listens(process: Identity | None, port: int) -> bool:
    """Whether exactly this process listens on a port."""
    if process is None or not process.alive():
        return False
    try:
        connections = psutil.Process(process.pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def owner(port: int) -> str:
    """Who listens on a port, in words: pid and program, or that it cannot be seen."""
    pids = process_table.listeners(port)
    if not pids:
        return "a process this user may not see"
    names = [f"pid {pid} ({' '.join(process_table.command_line(pid))[:80]})" for pid in pids]
    return ", ".join(names)
