"""The world of the fake target: what runs in it, who else is there, and which faults are set.

Mutable, because a world moves; ``to_plain`` and ``from_plain`` carry it between processes and
golden cases (``world.yaml``). Everything but ``inventory`` may be left out of the plain form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from enova.base.digest import digest, plain
from enova.capacity.inventory import Claim, Inventory, from_plain
from enova.stack.observed import Member, Placement, State
from enova.stack.resources import Fields

FIRST_PORT = 20001


@dataclass
class FakeInstance:
    """One pretended engine."""

    id: str
    address: str
    digest: str
    fields: Fields
    placement: Placement
    state: State
    port: int
    exit_reason: str | None = None
    tampered: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where it would listen."""
        return f"{self.placement.host}:{self.port}"

    def exit(self, reason: str) -> None:
        """It ends by itself."""
        self.state = State.EXITED
        self.exit_reason = reason
        self.log.append(reason)


@dataclass
class FakeComponent:
    """A pretended gateway or monitor."""

    id: str
    address: str
    digest: str
    fields: Fields
    state: State
    endpoint: str
    exit_reason: str | None = None
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Foreign:
    """A program of somebody else. It holds devices, is never observed and never touched."""

    name: str
    placement: Placement


@dataclass
class Faults:
    """Switches. ``count`` of the world says how many actions were performed so far, from 1."""

    fail_at: set[int] = field(default_factory=set)
    """These performed actions fail before they change anything."""
    refuse: dict[str, str] = field(default_factory=dict)
    """What is started with this digest exits with this reason."""
    unreachable: set[str] = field(default_factory=set)
    """Hosts that do not answer."""
    kill_at: int = 0
    """The process dies at this performed action, once; 0: never."""
    kill_after: bool = False
    """It dies after the action changed the world, not before."""


@dataclass
class World:
    """Everything there is."""

    inventory: Inventory
    monitors: list[str] = field(default_factory=lambda: ["prometheus"])
    """Names of the monitors that can be pretended here."""
    registry: dict[str, str] | None = None
    """Digests of images by reference; None: no registry answers."""
    instances: dict[str, FakeInstance] = field(default_factory=dict)
    components: dict[str, FakeComponent] = field(default_factory=dict)
    members: dict[str, dict[str, Member]] = field(default_factory=dict)
    foreign: list[Foreign] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    count: int = 0
    """Actions performed so far, undo steps and failed ones included."""
    ports: int = 0
    stopped_while_joined: list[str] = field(default_factory=list)
    """Serving instances that were stopped while the gateway still sent them requests: harm."""

    def next_port(self) -> int:
        """A port nobody has."""
        self.ports += 1
        return FIRST_PORT + self.ports - 1

    def pool(self) -> Inventory:
        """The inventory with the claims of foreign programs."""
        claims = tuple(_claim(one) for one in self.foreign)
        return replace(self.inventory, claims=(*self.inventory.claims, *claims))

    def no_room(self, wanted: Placement, *, but: str) -> str | None:
        """Why a placement is not free, None when it is. ``but`` is left out of the count."""
        host = self.inventory.host(wanted.host)
        if host is None:
            return f"there is no host {wanted.host}"
        held = [(one.name, one.placement) for one in self.foreign]
        held += [
            (one.id, one.placement)
            for one in self.instances.values()
            if one.state is not State.EXITED and one.id != but
        ]
        here = [(name, placement) for name, placement in held if placement.host == wanted.host]
        for name, placement in here:
            for what, mine, theirs in (
                ("GPU", wanted.gpus, placement.gpus),
                ("core", wanted.cores, placement.cores),
            ):
                both = sorted(set(mine) & set(theirs))
                if both:
                    return f"{what} {both[0]} of {wanted.host} is held by {name}"
        known = {device.index for device in host.devices if device.kind == "gpu"}
        if missing := sorted(set(wanted.gpus) - known):
            return f"{wanted.host} has no GPU {missing[0]}"
        if missing := sorted(index for index in wanted.cores if index >= host.cores):
            return f"{wanted.host} has no core {missing[0]}"
        taken = sum(placement.memory_bytes for _, placement in here)
        if wanted.memory_bytes and taken + wanted.memory_bytes > host.memory_bytes:
            return f"{wanted.host} has not enough memory left"
        return None

    def to_plain(self) -> dict[str, object]:
        """Plain data, sorted."""
        return {
            "inventory": plain(self.inventory),
            "monitors": sorted(self.monitors),
            "registry": plain(self.registry),
            "instances": [
                {**_plain_mapping(one), "fields": dict(one.fields)}
                for _, one in sorted(self.instances.items())
            ],
            "components": [
                {**_plain_mapping(one), "fields": dict(one.fields)}
                for _, one in sorted(self.components.items())
            ],
            "members": {
                service: [plain(member) for _, member in sorted(members.items())]
                for service, members in sorted(self.members.items())
            },
            "foreign": plain(self.foreign),
            "faults": plain(self.faults),
            "count": self.count,
            "ports": self.ports,
            "stopped_while_joined": list(self.stopped_while_joined),
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, object]) -> World:
        """The world of that plain form. Raises ValueError on another shape."""
        try:
            return _world(data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a world: {error}") from error


def _world(data: Mapping[str, object]) -> World:
    instances = [_instance(item, number) for number, item in enumerate(_list(data, "instances"))]
    endpoints = {one.id: one.endpoint for one in instances}
    faults = _map(data.get("faults", {}))
    return World(
        inventory=from_plain(_map(data["inventory"])),
        monitors=[str(item) for item in _items(data.get("monitors", ("prometheus",)))],
        registry=_texts(data.get("registry")),
        instances={one.id: one for one in instances},
        components={str(item["id"]): _component(item) for item in _list(data, "components")},
        members={
            service: {
                str(item["instance"]): Member(
                    instance=str(item["instance"]),
                    endpoint=str(item.get("endpoint", endpoints.get(str(item["instance"]), ""))),
                    weight=_int(item.get("weight", 100)),
                    draining=bool(item.get("draining", False)),
                )
                for item in _list(_map(data.get("members", {})), service)
            }
            for service in _map(data.get("members", {}))
        },
        foreign=[
            Foreign(str(item["name"]), _placement(_map(item["placement"])))
            for item in _list(data, "foreign")
        ],
        faults=Faults(
            fail_at={_int(item) for item in _items(faults.get("fail_at", ()))},
            refuse={key: str(value) for key, value in _map(faults.get("refuse", {})).items()},
            unreachable={str(item) for item in _items(faults.get("unreachable", ()))},
            kill_at=_int(faults.get("kill_at", 0)),
            kill_after=bool(faults.get("kill_after", False)),
        ),
        count=_int(data.get("count", 0)),
        ports=_int(data.get("ports", len(instances))),
        stopped_while_joined=[str(item) for item in _items(data.get("stopped_while_joined", ()))],
    )


def _instance(data: Mapping[str, object], number: int) -> FakeInstance:
    fields = _fields(data.get("fields", {}))
    return FakeInstance(
        id=str(data["id"]),
        address=str(data["address"]),
        digest=str(data.get("digest", digest(fields))),
        fields=fields,
        placement=_placement(_map(data["placement"])),
        state=State(str(data.get("state", "serving"))),
        port=_int(data.get("port", FIRST_PORT + number)),
        exit_reason=_text(data.get("exit_reason")),
        tampered=[str(item) for item in _items(data.get("tampered", ()))],
        log=[str(item) for item in _items(data.get("log", ()))],
    )


def _component(data: Mapping[str, object]) -> FakeComponent:
    fields = _fields(data.get("fields", {}))
    return FakeComponent(
        id=str(data["id"]),
        address=str(data["address"]),
        digest=str(data.get("digest", digest(fields))),
        fields=fields,
        state=State(str(data.get("state", "serving"))),
        endpoint=str(data.get("endpoint", "")),
        exit_reason=_text(data.get("exit_reason")),
        log=[str(item) for item in _items(data.get("log", ()))],
    )


def _fields(value: object) -> Fields:
    pairs = []
    for path, scalar in sorted(_map(value).items()):
        if scalar is not None and not isinstance(scalar, (str, int, float, bool)):
            raise TypeError(f"field {path} must be a single value, not {scalar!r}")
        pairs.append((path, scalar))
    return tuple(pairs)


def _placement(data: Mapping[str, object]) -> Placement:
    return Placement(
        host=str(data["host"]),
        gpus=tuple(_int(item) for item in _items(data.get("gpus", ()))),
        cores=tuple(_int(item) for item in _items(data.get("cores", ()))),
        memory_bytes=_int(data.get("memory_bytes", 0)),
    )


def _claim(one: Foreign) -> Claim:
    return Claim(
        owner=one.name,
        host=one.placement.host,
        indices=one.placement.gpus,
        cores=len(one.placement.cores),
        memory_bytes=one.placement.memory_bytes,
    )


def _plain_mapping(value: object) -> dict[str, object]:
    data = plain(value)
    assert isinstance(data, dict)
    return data


def _list(data: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    return [_map(item) for item in _items(data.get(key, ()))]


def _items(value: object) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"a list is needed, not {value!r}")
    return value


def _map(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping is needed, not {value!r}")
    return value


def _texts(value: object) -> dict[str, str] | None:
    return None if value is None else {key: str(one) for key, one in _map(value).items()}


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number is needed, not {value!r}")
    return value


def _text(value: object) -> str | None:
    return None if value is None else str(value)
