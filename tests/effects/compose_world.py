"""One stack on the compose target, with the stand-in for the engine in an image of its own."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from enova.effects import gateway
from enova.effects.drivers.docker import ComposeDriver
from enova.effects.drivers.docker_engine import Engine
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.folder import Folder
from enova.stack.actions import Action, Do, StartReplica, StopReplica, WaitServing
from enova.stack.observed import Instance, Placement
from enova.stack.resources import Needs, ReplicaTemplate, Scalar
from tests.effects import process_world
from tests.effects.process_world import INVENTORY, STAND_IN
from tests.parts.containers import DockerEngine

HERE = Placement("local", cores=())
A = "chat-replica-0-aaaaaa"
SLOT = "chat/replica/0"


def stand_in_image(engine: DockerEngine, base: str) -> str:
    """The reference of an image whose `vllm` is the stand-in; made once for each content."""
    script = STAND_IN.read_bytes()
    files = {
        "Dockerfile": f"FROM {base}\nCOPY vllm engine.py /usr/local/bin/\n".encode(),
        "vllm": b'#!/bin/sh\nexec python3 -S /usr/local/bin/engine.py "$@"\n',
        "engine.py": script,
    }
    base_id = engine.docker("image", "inspect", "--format", "{{.Id}}", base)
    made_of = hashlib.sha256(base_id.encode() + b"".join(files.values())).hexdigest()[:12]
    reference = f"enova-test/stand-in:{made_of}"
    if engine.attempt("image", "inspect", reference).returncode == 0:
        return reference
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", reference, "-"],
        env={**os.environ, **engine.environment, "DOCKER_BUILDKIT": "0"},
        input=archive.getvalue(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return reference


def template(image: str, *args: tuple[str, Scalar], **more: object) -> ReplicaTemplate:
    """A replica of the stand-in with these flags. The model is a folder: nothing is downloaded."""
    plain: dict[str, object] = {
        "executable": "",
        "image": image,
        "model": "/etc",
        "needs": Needs(None, 0, 1, 256 * 2**20),
    }
    return process_world.template(*args, **(plain | more))


@dataclass
class World:
    """A driver over a state folder, and short words for actions."""

    state: Path
    name: str
    docker: DockerEngine
    image: str
    env: str = ""
    surroundings: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    _ids: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.driver = self.another()

    @property
    def ground(self) -> Ground:
        surroundings = {**os.environ, **self.surroundings}
        return Ground(
            stack=f"{self.name}.{self.env}" if self.env else self.name,
            name=self.name,
            env=self.env,
            state=self.state,
            engine=Engine(surroundings),
            envoy=gateway.envoy_binary(),
            surroundings=surroundings,
        )

    @property
    def project(self) -> str:
        return self.ground.project_name

    def another(self) -> ComposeDriver:
        """A second driver over the same state, as a later enova would have."""
        return ComposeDriver(self.ground, probe=lambda: INVENTORY)

    def do(self, address: str, do: Do, timeout_s: float = 60.0) -> None:
        action = Action(next(self._ids), address, do, "the test", "group", timeout_s=timeout_s)
        self.driver.perform(action, self.told.append)

    def template(self, *args: tuple[str, Scalar], **more: object) -> ReplicaTemplate:
        return template(str(more.pop("image", self.image)), *args, **more)

    def start(self, instance: str = A, *args: tuple[str, Scalar], **more: object) -> Folder:
        """Start a replica and return its folder."""
        placement = more.pop("placement", HERE)
        assert isinstance(placement, Placement)
        self.do(SLOT, StartReplica(instance, self.template(*args, **more), placement))
        return self.folder(instance)

    def wait(self, instance: str = A, timeout_s: float = 60.0) -> None:
        self.do(SLOT, WaitServing(instance), timeout_s)

    def serve(self, instance: str = A, *args: tuple[str, Scalar], **more: object) -> Folder:
        folder = self.start(instance, *args, **more)
        self.wait(instance)
        return folder

    def stop(self, instance: str = A, grace_s: float = 10.0) -> None:
        self.do(SLOT, StopReplica(instance, grace_s))

    def folder(self, instance: str = A) -> Folder:
        return Folder(self.state / "run" / "instances" / instance)

    def container(self, service: str = A) -> str:
        """The name Compose gives the container of a service."""
        return f"{self.project}-{service}-1"

    def seen(self, instance: str = A) -> Instance:
        found = self.driver.observe().instance(instance)
        assert found is not None
        return found

    def compose(self, *words: str) -> str:
        """`docker compose` as a person would run it on the project's file."""
        return self.docker.docker("compose", "--file", self.ground.file, *words)

    def end(self) -> None:
        """Remove whatever a test left."""
        self.docker.sweep(self.project)


Make = Callable[..., World]
