"""A stack in containers, as its user sees it: the same words, with Docker's answers.

Containers are found by compose's own labels, and engines are killed inside of them, so that Docker
sees an engine that ended by itself and nobody who stopped it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enova.effects.gateway_admin import GatewayAdmin
from tests.parts.containers import DockerEngine
from tests.scenario.world import Stack

VOLUME = "models"
"""What a stack leaves on purpose: downloaded models and compiled code."""


@dataclass(kw_only=True)
class ContainerStack(Stack):
    """A stack of the test on a Docker engine."""

    docker: DockerEngine

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.docker.environment}

    # What the user does

    def container(self, service: str) -> str:
        """The name of the one container of an instance or component."""
        return f"{self.project}-{service}-1"

    def compose(self, *words: str) -> str:
        """`docker compose` by hand, on the file of the stack."""
        return self.docker.docker("compose", "--file", self.compose_file, *words)

    def kill(self, instance: str) -> None:
        # Everything but the first process, which is Docker's own, and this one.
        self.docker.attempt("exec", self.container(instance), "sh", "-c", "kill -9 -1")

    # What can be seen

    @property
    def project(self) -> str:
        return f"enova-{self.name}"

    @property
    def compose_file(self) -> Path:
        return self.state / "run" / "compose.yaml"

    def inspected(self) -> list[dict[str, Any]]:
        """Every container of the stack, in Docker's words."""
        names = self.docker.listed("container", "{{.Names}}", self.project)
        if not names:
            return []
        # One of them may be removed in between.
        said = self.docker.attempt("container", "inspect", *names).stdout
        found: list[dict[str, Any]] = json.loads(said or "[]")
        return found

    def running(self) -> set[str]:
        return {
            f"{one['Id']} {one['State']['StartedAt']}"
            for one in self.inspected()
            if one["State"]["Running"]
        }

    def ports(self) -> set[int]:
        return {
            int(binding["HostPort"])
            for one in self.inspected()
            for bindings in (one["HostConfig"]["PortBindings"] or {}).values()
            for binding in bindings
        }

    def left(self) -> list[str]:
        kept = f"volume {self.project}_{VOLUME}"
        return [one for one in self.docker.belongings(self.project) if one != kept]

    def components(self, address: str) -> list[str]:
        running = {
            one["Config"]["Labels"]["enova.instance"]
            for one in self.inspected()
            if one["State"]["Running"]
        }
        return sorted(one for one in running if one.startswith(f"{address}-"))

    def admin(self, folder: Path, more: Mapping[str, Any]) -> GatewayAdmin:
        return GatewayAdmin(folder / more["current"] / "run" / "admin.sock")

    def shared_memory(self) -> set[Path]:
        return set()  # a container's own, gone with it

    # Afterwards

    def keep(self, where: Path) -> None:
        super().keep(where)
        (where / "containers.json").write_text(json.dumps(self.inspected(), indent=1))
        for name in self.docker.listed("container", "{{.Names}}", self.project):
            said = self.docker.attempt("logs", "--timestamps", name)
            (where / f"{name}.log").write_text(said.stdout + said.stderr)

    def clean(self) -> None:
        super().clean()
        self.docker.sweep(self.project)
