"""What every part of the compose target stands on: the engine, the project, its addresses.

In: the stack and its state folder. Out: a subnet that collides with nothing here, a free address
in it, the name of the Compose project. Everything is remembered below the state folder.
"""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from enova.base.errors import Refused
from enova.effects.drivers import ground
from enova.effects.drivers.docker_container import ENV, STACK, Container
from enova.effects.drivers.docker_engine import Engine
from enova.effects.drivers.folder import Folder, folders, read_document
from enova.effects.gateway import write_document
from enova.stack.render import compose
from enova.stack.render.compose_reconciler import INSIDE_VARIABLE

_RANGE = "10.0.0.0/8"
_FIRST_HOST = 10
"""Below it is room for what people attach by hand; .1 is this machine."""
_ROUTES = Path("/proc/net/route")


@dataclass(frozen=True, kw_only=True)
class Ground(ground.Ground):
    """One stack in one environment on one engine. ``envoy`` checks a gateway's files before
    anything is changed; without it the container's own Envoy is the first to see them."""

    name: str
    env: str
    engine: Engine
    envoy: Path | None = None
    placed: tuple[str, ...] = field(default=("local",))
    """The pool's hosts: all of them are this machine."""

    @property
    def inside(self) -> bool:
        """Whether this process is in a container of the stack: published ports are not here."""
        return self.surroundings.get(INSIDE_VARIABLE) == "1"

    @property
    def file(self) -> Path:
        """The project's ``compose.yaml``."""
        return self.run / "compose.yaml"

    def project(self) -> compose.Project:
        """The Compose project, with the subnet noted for it, "" before there is one."""
        owner = self.state.stat()
        return compose.Project(
            stack=self.name,
            env=self.env,
            subnet=self.subnet() or "",
            user=f"{owner.st_uid}:{owner.st_gid}",
            cores=self.engine.about.cores,
        )

    @property
    def project_name(self) -> str:
        """The project's name."""
        return compose.Project(self.name, self.env, "", "").name

    def subnet(self) -> str | None:
        """The subnet of the project's inner network; None before one was chosen."""
        noted = read_document(self._network)
        return str(noted["subnet"]) if noted and "subnet" in noted else None

    def choose_subnet(self, refused: Collection[str] = ()) -> str:
        """Choose and note a subnet that nobody uses here. ``refused``: those that failed before."""
        used = [n for network in self.engine.networks() for n in network.subnets]
        used += [*routed(), *(IPv4Network(text) for text in refused)]
        chosen = str(free_subnet(used, seed=str(self.state.absolute())))
        write_document(self._network, {"subnet": chosen})
        return chosen

    def owned(self) -> tuple[Folder, ...]:
        """Every instance and component folder."""
        return (*folders(self.instances), *folders(self.components))

    def labelled(self) -> tuple[Container, ...]:
        """Every container whose labels name this stack and environment."""
        found = self.engine.containers({STACK: self.name})
        return tuple(container for container in found if self.is_ours(container))

    def is_ours(self, container: Container) -> bool:
        """Whether its labels name this stack and environment."""
        labels = container.labels
        return (labels.get(STACK), labels.get(ENV, "")) == (self.name, self.env)

    @property
    def _network(self) -> Path:
        return self.run / "network.json"


def free_subnet(used: Iterable[IPv4Network], *, seed: str) -> IPv4Network:
    """A /24 of the range that overlaps none of these. ``seed`` spreads the first guess.

    Raises Refused when there is none.
    """
    whole = IPv4Network(_RANGE)
    # A route to all of it is a default route for private networks, not somebody's network.
    taken = [network for network in used if network.overlaps(whole) and network != whole]
    count = 1 << 16
    start = zlib.crc32(seed.encode()) % count
    base = int(whole.network_address)
    for step in range(count):
        candidate = IPv4Network((base + ((start + step) % count << 8), 24))
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise Refused(f"no /24 network is free in {_RANGE} on this machine")


def free_address(subnet: str, taken: Collection[str]) -> str:
    """The lowest address of the subnet that nobody of the stack has. Raises Refused when full."""
    for address in list(IPv4Network(subnet).hosts())[_FIRST_HOST - 1 :]:
        if str(address) not in taken:
            return str(address)
    raise Refused(f"every address of {subnet} is taken: a stack can have some 240 containers")


def routed(table: Path = _ROUTES) -> list[IPv4Network]:
    """Networks that this machine has a route to, besides the default one."""
    try:
        rows = table.read_text().splitlines()[1:]
    except OSError:
        return []
    found = []
    for row in rows:
        columns = row.split()
        address, mask = (_ipv4(columns[index]) for index in (1, 7))
        if int(mask):
            found.append(IPv4Network((int(address), int(mask).bit_count())))
    return found


def _ipv4(text: str) -> IPv4Address:
    """The kernel writes addresses in the machine's byte order."""
    return IPv4Address(socket.ntohl(struct.unpack("!I", struct.pack("!I", int(text, 16)))[0]))
