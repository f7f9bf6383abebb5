"""One stack on the process target, with a stand-in for the engine, for tests."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from enova.capacity.inventory import CPU, Device, Host, Inventory
from enova.effects.drivers import process_table
from enova.effects.drivers.process import ProcessDriver
from enova.effects.drivers.process_folder import Folder
from enova.effects.drivers.process_ground import Ground, Programs, find_programs
from enova.stack.actions import Action, Do, StartReplica, StopReplica, WaitServing
from enova.stack.observed import Instance, Placement
from enova.stack.resources import GatewayResource, Needs, ReplicaTemplate, Route, Scalar

STAND_IN = Path(__file__).with_name("stand_in_engine.py")
INVENTORY = Inventory(
    hosts=(Host("local", (Device(0, CPU, 8 * 2**30, kind="cpu", cores=8),), 8, 8 * 2**30),)
)
HERE = Placement("local", cores=())


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for a condition; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def template(*args: tuple[str, Scalar], **more: object) -> ReplicaTemplate:
    """A replica of the stand-in engine with these flags."""
    plain = ReplicaTemplate(
        service="chat",
        engine="vllm",
        engine_version="0.32.0",
        executable=str(STAND_IN),
        model="tiny",
        served_name="chat",
        args=args,
        env=(),
        secret_env=(),
        needs=Needs(None, 0, 1, 0),
    )
    return replace(plain, **more)  # type: ignore[arg-type]  # fields by name


def gateway(port: int, **more: object) -> GatewayResource:
    """A gateway for the service ``chat``."""
    plain = GatewayResource("127.0.0.1", port, "least-request", (Route("chat", "chat"),))
    return replace(plain, **more)  # type: ignore[arg-type]  # fields by name


@dataclass
class World:
    """A driver over a state folder, and short words for actions."""

    state: Path
    programs: Programs = field(default_factory=lambda: find_programs(os.environ))
    surroundings: dict[str, str] = field(default_factory=dict)
    log_bytes: int = 2**20
    access_log_bytes: int = 2**29
    told: list[str] = field(default_factory=list)
    _ids: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.driver = self.another()

    @property
    def ground(self) -> Ground:
        return Ground(
            stack=self.state.name,
            state=self.state,
            programs=self.programs,
            surroundings={**os.environ, **self.surroundings},
            log_bytes=self.log_bytes,
            access_log_bytes=self.access_log_bytes,
        )

    def another(self) -> ProcessDriver:
        """A second driver over the same state, as a later enova would have."""
        return ProcessDriver(self.ground, probe=lambda: INVENTORY)

    def do(self, address: str, do: Do, timeout_s: float = 30.0) -> None:
        action = Action(next(self._ids), address, do, "the test", "group", timeout_s=timeout_s)
        self.driver.perform(action, self.told.append)

    def start(
        self, instance: str = "chat-replica-0-a", *args: tuple[str, Scalar], **more: object
    ) -> Folder:
        """Start a replica and return its folder."""
        placement = more.pop("placement", HERE)
        assert isinstance(placement, Placement)
        self.do("chat/replica/0", StartReplica(instance, template(*args, **more), placement))
        return self.folder(instance)

    def wait(self, instance: str = "chat-replica-0-a", timeout_s: float = 30.0) -> None:
        self.do("chat/replica/0", WaitServing(instance), timeout_s)

    def stop(self, instance: str = "chat-replica-0-a", grace_s: float = 10.0) -> None:
        self.do("chat/replica/0", StopReplica(instance, grace_s))

    def folder(self, instance: str) -> Folder:
        return Folder(self.state / "run" / "instances" / instance)

    def seen(self, instance: str = "chat-replica-0-a") -> Instance:
        found = self.driver.observe().instance(instance)
        assert found is not None
        return found

    def mine(self) -> list[int]:
        """Pids of everything that carries this stack's mark."""
        return [p.pid for p in process_table.marked(self.ground.marks())]

    def end(self) -> None:
        """Kill whatever a test left."""
        for identity in process_table.marked(self.ground.marks()):
            process_table.send(identity, signal.SIGKILL)
        for folder in self.ground.owned():
            shim = folder.shim()
            if shim is not None:
                for identity in process_table.leftovers(shim, folder.process()):
                    process_table.send(identity, signal.SIGKILL)


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


PYTHON = sys.executable
