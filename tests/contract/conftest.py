"""The drivers that every contract test runs on, each with the same few words around it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from enova.effects.drivers.base import Driver
from enova.effects.drivers.fake import FakeDriver
from enova.effects.drivers.fake_world import Foreign
from enova.effects.drivers.ports import free_port
from enova.stack.actions import Action, Do
from enova.stack.observed import Observed, Placement
from enova.stack.resources import GatewayResource, ReplicaTemplate, Route
from tests.effects import compose_world
from tests.effects.process_world import HERE, INVENTORY, STAND_IN, World, gateway, template
from tests.parts import containers, real


class Target(ABC):
    """A driver, a way to open it again, an engine that serves and one that refuses."""

    placement = HERE
    progress: list[str]

    def __init__(self) -> None:
        self.progress = []
        self._ids = count()
        self.port = free_port((), seed=uuid.uuid4().hex)

    @property
    @abstractmethod
    def driver(self) -> Driver: ...

    @abstractmethod
    def another(self) -> Driver:
        """A second driver over the same world."""

    def engine(self, **more: object) -> ReplicaTemplate:
        return template(**more)

    @abstractmethod
    def refusing(self, reason: str) -> ReplicaTemplate:
        """An engine that exits with this reason instead of serving."""

    def gateway(self, **more: object) -> GatewayResource:
        return gateway(self.port, **more)

    @abstractmethod
    def refused_gateway(self) -> tuple[GatewayResource, str]:
        """A configuration that Envoy refuses, and its reason."""

    def do(self, address: str, do: Do, timeout_s: float = 30.0) -> None:
        action = Action(next(self._ids), address, do, "the test", "group", timeout_s=timeout_s)
        self.driver.perform(action, self.progress.append)

    def seen(self) -> Observed:
        return self.driver.observe()

    @abstractmethod
    def add_foreign(self) -> None:
        """Somebody else's engine, as like ours as can be."""

    @abstractmethod
    def foreign_lives(self) -> bool: ...

    @abstractmethod
    def left(self) -> list[str]:
        """What of this stack is still there, in words."""


class FakeTarget(Target):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._file = folder / "world.json"
        self._driver = FakeDriver.at(self._file, inventory=INVENTORY)
        self.placement = Placement("local", cores=(0,))

    @property
    def driver(self) -> FakeDriver:
        return self._driver

    def another(self) -> FakeDriver:
        return FakeDriver.at(self._file)

    def refusing(self, reason: str) -> ReplicaTemplate:
        refused = template(("refuse", reason))
        with self._driver.edit() as world:
            world.faults.refuse[refused.digest] = reason
        return refused

    def refused_gateway(self) -> tuple[GatewayResource, str]:
        refused, reason = self.gateway(max_pending=9), "max_pending: this is refused"
        with self._driver.edit() as world:
            world.faults.refuse[refused.digest] = reason
        return refused, reason

    def add_foreign(self) -> None:
        with self._driver.edit() as world:
            world.foreign.append(Foreign("somebody's engine", Placement("local", cores=(7,))))

    def foreign_lives(self) -> bool:
        with self._driver.edit() as world:
            return len(world.foreign) == 1

    def left(self) -> list[str]:
        with self._driver.edit() as world:
            return [*world.instances, *world.components, *world.members]


class ProcessTarget(Target):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.world = World(folder / "demo")
        self._foreign: subprocess.Popen[bytes] | None = None

    @property
    def driver(self) -> Driver:
        return self.world.driver

    def another(self) -> Driver:
        return self.world.another()

    def refusing(self, reason: str) -> ReplicaTemplate:
        return template(("refuse", reason))

    def refused_gateway(self) -> tuple[GatewayResource, str]:
        routes = (Route("chat", "same"), Route("code", "same"))
        return self.gateway(routes=routes), "two services serve the same model name: same"

    def add_foreign(self) -> None:
        port = free_port((), seed="foreign")
        words = ["serve", "tiny", "--served-model-name", "chat", "--host", "127.0.0.1"]
        self._foreign = subprocess.Popen(
            [sys.executable, str(STAND_IN), *words, "--port", str(port)],
            stdout=subprocess.DEVNULL,
        )

    def foreign_lives(self) -> bool:
        return self._foreign is not None and self._foreign.poll() is None

    def left(self) -> list[str]:
        listening = [
            f"port {connection.laddr.port}"
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
        ]
        run = self.world.state / "run"
        files = [str(path) for path in run.rglob("*")] if run.exists() else []
        return [*(f"pid {pid}" for pid in self.world.mine()), *listening, *files]

    def end(self) -> None:
        self.world.end()
        if self._foreign is not None:
            self._foreign.kill()
            self._foreign.wait()


class ComposeTarget(Target):
    """The stand-in for the engine and a real Envoy, in containers."""

    def __init__(self, folder: Path, engine: containers.DockerEngine) -> None:
        super().__init__()
        enova = containers.docker_image(engine, "enova")
        containers.docker_image(engine, "envoy")
        image = compose_world.stand_in_image(engine, enova)
        name = f"t{uuid.uuid4().hex[:8]}"
        self.world = compose_world.World(folder / name, name, engine, image)
        self._foreign = f"enova-{name}-somebody"

    @property
    def driver(self) -> Driver:
        return self.world.driver

    def another(self) -> Driver:
        return self.world.another()

    def engine(self, **more: object) -> ReplicaTemplate:
        return self.world.template(**more)

    def refusing(self, reason: str) -> ReplicaTemplate:
        return self.world.template(("refuse", reason))

    def refused_gateway(self) -> tuple[GatewayResource, str]:
        routes = (Route("chat", "same"), Route("code", "same"))
        return self.gateway(routes=routes), "two services serve the same model name: same"

    def add_foreign(self) -> None:
        words = ["serve", "tiny", "--served-model-name", "chat", "--host", "0.0.0.0"]
        labels = ["enova.stack=other", "enova.kind=replica", f"enova.instance={A_FOREIGN}"]
        marks = [word for label in labels for word in ("--label", label)]
        self.world.docker.docker(
            *("run", "--detach", "--pull", "never", "--name", self._foreign, *marks),
            *("--entrypoint", "vllm", self.world.image, *words, "--port", "8000"),
        )

    def foreign_lives(self) -> bool:
        state = self.world.docker.docker("inspect", "-f", "{{.State.Running}}", self._foreign)
        return state.strip() == "true"

    def left(self) -> list[str]:
        run = self.world.state / "run"
        files = [str(path) for path in run.rglob("*")] if run.exists() else []
        # Downloaded models outlive their stack.
        kept = f"volume {self.world.project}_models"
        belongings = self.world.docker.belongings(self.world.project)
        return [*(thing for thing in belongings if thing != kept), *files]

    def end(self) -> None:
        self.world.end()
        self.world.docker.attempt("rm", "--force", self._foreign)


A_FOREIGN = "chat-replica-0-aaaaaa"


REAL = [pytest.param(name, marks=pytest.mark.real) for name in ("process", "compose")]


@pytest.fixture(params=["fake", *REAL])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    # A short path: Envoy's admin socket lies below it.
    folder = Path(tempfile.mkdtemp(prefix="enova-contract-"))
    try:
        if request.param == "fake":
            yield FakeTarget(folder)
            return
        if request.param == "compose":
            started: ProcessTarget | ComposeTarget = ComposeTarget(
                folder, request.getfixturevalue("docker_engine")
            )
        else:
            real.envoy_binary()
            started = ProcessTarget(folder)
        try:
            yield started
        finally:
            started.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
