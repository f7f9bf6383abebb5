"""Worlds and action graphs that the tests of ``execute`` and of the fake driver share."""

from __future__ import annotations

from enova.capacity.inventory import Device, Host, Inventory
from enova.stack.actions import (
    Action,
    Do,
    Drain,
    Join,
    Leave,
    StartGateway,
    StartReplica,
    StopReplica,
    WaitServing,
)
from enova.stack.observed import Placement
from enova.stack.resources import GatewayResource, Needs, ReplicaTemplate, Route

CORES = 64
GIB = 2**30


def pool(cores: int = CORES, gpus: int = 2) -> Inventory:
    devices = [Device(index, "h100-80gb", 80 * GIB) for index in range(gpus)]
    devices.append(Device(0, "cpu", 256 * GIB, kind="cpu", cores=cores))
    return Inventory((Host("local", tuple(devices), cores, 256 * GIB),))


def template(service: str = "chat", **args: int) -> ReplicaTemplate:
    return ReplicaTemplate(
        service=service,
        engine="emulator",
        engine_version="1",
        executable="enova",
        model="tiny",
        served_name=service,
        args=tuple(sorted(args.items())),
        env=(),
        secret_env=(),
        needs=Needs(None, 0, 1, GIB),
    )


def gateway(port: int = 9199) -> GatewayResource:
    return GatewayResource("127.0.0.1", port, "least-request", (Route("chat", "chat"),))


def on_core(core: int) -> Placement:
    return Placement("local", cores=(core,), memory_bytes=GIB)


def action(
    identity: int,
    do: Do,
    *,
    address: str = "chat/replica/0",
    group: str = "g",
    after: tuple[int, ...] = (),
    expects: str | None = None,
    undo: tuple[Do, ...] = (),
) -> Action:
    return Action(
        id=identity,
        address=address,
        do=do,
        cause="missing",
        group=group,
        after=after,
        expects=expects,
        undo=undo,
    )


def comes(
    first: int, slot: int, *, service: str = "chat", after: tuple[int, ...] = (), **args: int
) -> list[Action]:
    """Start, wait, join of one replica, as the plan writes it. Ids ``first`` to ``first + 2``."""
    name, address = f"{service}-{slot}", f"{service}/replica/{slot}"
    wanted, group = template(service, **args), f"{address} comes"
    core = slot + (32 if service != "chat" else 0)
    start = StartReplica(name, wanted, on_core(core))
    stop = StopReplica(name, 30.0)
    return [
        action(first, start, address=address, group=group, after=after, undo=(stop,)),
        action(
            first + 1,
            WaitServing(name),
            address=address,
            group=group,
            after=(first,),
            expects=wanted.digest,
        ),
        action(
            first + 2,
            Join(service, name, 100),
            address=address,
            group=group,
            after=(first + 1,),
            expects=wanted.digest,
            undo=(Leave(service, name),),
        ),
    ]


def goes(
    first: int, slot: int, *, service: str = "chat", after: tuple[int, ...] = (), **args: int
) -> list[Action]:
    """Drain, leave, stop of one replica, as the plan writes it."""
    name, address = f"{service}-{slot}", f"{service}/replica/{slot}"
    has, group = template(service, **args).digest, f"{address} goes"
    steps: list[Do] = [
        Drain(service, name, 10.0),
        Leave(service, name),
        StopReplica(name, 30.0),
    ]
    return [
        action(
            first + number,
            do,
            address=address,
            group=group,
            after=after if number == 0 else (first + number - 1,),
            expects=has,
        )
        for number, do in enumerate(steps)
    ]


def gateway_starts(identity: int, name: str = "gateway-a") -> Action:
    return action(identity, StartGateway(name, gateway()), address="gateway", group="gateway")
