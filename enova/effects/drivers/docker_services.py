"""The containers of a stack: brought up and taken down one at a time, recognised, looked at.

In: services as noted (``docker_notes``). Out: one container each, and what became of it. GPUs are
allotted by Docker's own list of containers: one is made first, then looked whether an older one has
its device, and only then started, so two stacks can never share one by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from enova.base.errors import ActionFailed
from enova.capacity.inventory import Claim
from enova.effects.drivers import docker_call, docker_container
from enova.effects.drivers.docker_container import (
    FOLDER,
    INSTANCE,
    KIND,
    PROJECT,
    Container,
    Facts,
)
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import Notes, secret_names, services_of
from enova.effects.drivers.folder import TAIL_LINES, Folder, Meta, read_document
from enova.effects.gateway import write_document
from enova.stack.actions import Action
from enova.stack.render import compose

Document = compose.Document
Progress = Callable[[str], None]

_LOOK_S = 0.1
_SHORTEST_SECRET = 4
_MADE, _FAILED = "made.json", "failed.json"
_CAUSE_LINES = 200
"""Of vLLM's two processes, the one that only says that the other failed says so last, at length."""


@dataclass(frozen=True)
class Seen:
    """The containers of the stack: by service of the project; orphans that no note accounts for."""

    by_service: Mapping[str, Container]
    orphans: tuple[Container, ...] = ()


class Services:
    """The compose services of one stack."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.notes = Notes(ground)
        self._secrets: dict[str, list[str]] = {}

    def seen(self) -> Seen:
        """The stack's containers. Those of others never appear."""
        ground = self._ground
        noted = {
            name
            for folder in ground.owned()
            if (meta := folder.meta())
            for name in services_of(meta)
        }
        here = str(ground.run)
        found: dict[str, Container] = {}
        orphans = []
        in_project = ground.engine.containers({PROJECT: ground.project_name})
        labelled = {c.id: c for c in (*in_project, *ground.labelled())}
        for container in sorted(labelled.values(), key=lambda c: (c.created, c.id)):
            if container.labels.get(FOLDER, here) != here:
                continue
            if container.service in noted:
                found[container.service] = container
            elif self._ground.is_ours(container):
                orphans.append(container)
        return Seen(found, tuple(orphans))

    def find(self, service: str) -> Container | None:
        """The container of one service of the stack."""
        return self.seen().by_service.get(service)

    def ended(self, folder: Folder, container: Container | None) -> str | None:
        """Why it does not run, None while it does."""
        noted = read_document(folder.path / _FAILED)
        if noted is not None:
            return str(noted.get("reason"))
        reason = docker_container.ended(
            container, created=self._made(folder) is not None, served=folder.served() is not None
        )
        if reason is None or container is None:
            return reason
        return docker_container.with_cause(reason, self.lines(container, _CAUSE_LINES))

    def tampered(self, folder: Folder, meta: Meta, container: Container) -> tuple[str, ...]:
        """What is not as it was when the container was started."""
        made = self._made(folder)
        if made is None:
            return ()
        facts = cast(dict[str, Facts], made["facts"]).get(container.service)
        if facts is None:
            return ()
        return docker_container.differences(
            container, facts, secret=secret_names(meta, container.service)
        )

    def await_true(
        self,
        ready: Callable[[], bool],
        folder: Folder,
        action: Action,
        *,
        within_s: float,
        otherwise: str,
    ) -> None:
        """Wait until a started component is ready. Raises ActionFailed with its last lines."""
        clock = self._ground.clock
        end = clock.monotonic() + within_s
        reason = f"{otherwise} within {within_s:.0f} s"
        container: Container | None = None
        while clock.monotonic() < end:
            container = self.find(folder.id)
            ended = self.ended(folder, container)
            if ended is not None:
                reason = ended
                break
            if ready():
                return
            clock.sleep(_LOOK_S)
        lines = self.lines(container, TAIL_LINES) if container is not None else []
        raise ActionFailed(action.address, "start", reason, lines)

    def lines(self, container: Container, count: int) -> list[str]:
        """The last lines of its output, its secrets blanked out."""
        lines = self._ground.engine.lines(container, count)
        return [self.blanked(container, line) for line in lines]

    def blanked(self, container: Container, line: str) -> str:
        """A line of its output without the secrets it was given, as far as they can be read."""
        service = container.service
        if service not in self._secrets:
            meta = Folder(self._ground.instances / service).meta()
            found: list[str] = []
            for reference in meta.secret_env if meta is not None else ():
                with suppress(ActionFailed):
                    found += self._ground.secrets([reference], service).values()
            self._secrets[service] = sorted(found, key=len, reverse=True)
        for value in self._secrets[service]:
            if len(value) >= _SHORTEST_SECRET:
                line = line.replace(value, "[secret]")
        return line

    def _made(self, folder: Folder) -> dict[str, object] | None:
        return read_document(folder.path / _MADE)

    # --- up and down ---------------------------------------------------------------------------

    def up(
        self,
        folder: Folder,
        meta: Meta,
        service: str,
        *,
        progress: Progress,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Make and start the container of one service. Raises ActionFailed.

        ``variables`` are the values of the secrets its service refers to.
        """
        ground = self._ground
        self.bring_image(meta, service, progress)
        given = self.notes.blanks() | dict(variables or {})
        one = ("--no-deps", "--no-recreate", service)

        def call(*words: str) -> None:
            docker_call.compose(
                ground, *words, *one, address=meta.address, step="start", variables=given
            )

        call("up", "--no-start")
        container = self.find(service)
        if container is None:
            raise ActionFailed(meta.address, "start", "Docker removed its container at once")
        self._note_made(folder, meta, container)
        self._refuse_shared_devices(container, meta)
        call("up", "--detach")
        started = self.find(service)
        if started is not None:
            self._note_made(folder, meta, started)
        progress("container")

    def down(self, service: str, *, grace_s: float, address: str) -> None:
        """Stop one service and remove its container. A missing one is down already."""
        container = self.find(service)
        if container is None:
            return
        words = ("stop", "--timeout", str(max(0, round(grace_s))), service)
        if container.status in ("running", "paused", "restarting"):
            docker_call.compose(
                self._ground,
                *words,
                address=address,
                step="stop",
                variables=self.notes.blanks(),
                timeout_s=grace_s + docker_call.CALL_S,
            )
        docker_call.compose(
            self._ground,
            *("rm", "--force", "--volumes", service),
            address=address,
            step="stop",
            variables=self.notes.blanks(),
        )

    def remove_orphans(self, instance: str, *, grace_s: float) -> None:
        """Stop and remove containers that say they are this instance, and that no note knows."""
        for orphan in self.seen().orphans:
            if orphan.labels.get(INSTANCE) == instance:
                self._ground.engine.stop(orphan, grace_s=grace_s)
                self._ground.engine.remove(orphan)

    def fail(self, folder: Folder, container: Container | None, reason: str) -> None:
        """Note why it ended for good, and keep Docker from starting it again and again."""
        write_document(folder.path / _FAILED, {"reason": reason})
        if container is not None:
            self._ground.engine.stop(container, grace_s=0)

    def forget_run(self, folder: Folder) -> None:
        """Remove what an earlier start left, before the same folder is started again."""
        for name in (_FAILED, _MADE, "served.json"):
            (folder.path / name).unlink(missing_ok=True)

    def _note_made(self, folder: Folder, meta: Meta, container: Container) -> None:
        made = self._made(folder) or {"facts": {}}
        facts = cast(dict[str, Facts], made["facts"])
        facts[container.service] = docker_container.plain_facts(
            container, secret=secret_names(meta, container.service)
        )
        write_document(folder.path / _MADE, {"facts": facts})

    def bring_image(self, meta: Meta, service: str, progress: Progress) -> None:
        """Pull the image of a service unless it is here. Raises ActionFailed."""
        image = str(services_of(meta)[service]["image"]).replace("$$", "$")
        if self._ground.engine.image(image) is None:
            progress(f"pulling {image}")
            docker_call.pull(self._ground, image, address=meta.address)

    # --- devices -------------------------------------------------------------------------------

    def _refuse_shared_devices(self, made: Container, meta: Meta) -> None:
        """Remove the container just made when an older one has one of its GPUs."""
        if not made.gpus:
            return
        for other in self._ground.engine.containers({KIND: "replica"}):
            older = (other.created, other.id) < (made.created, made.id)
            shared = sorted(set(other.gpus) & set(made.gpus), key=str)
            if other.id != made.id and older and shared:
                self._ground.engine.remove(made)
                raise ActionFailed(
                    meta.address,
                    "start",
                    f"GPU {', '.join(shared)} is held by {other.label} (container {other.name})",
                )

    def claims(self) -> tuple[Claim, ...]:
        """GPUs that replicas of other stacks hold on this engine, on each of the pool's hosts:
        they are all this machine."""
        found = []
        for container in self._ground.engine.containers({KIND: "replica"}):
            indices = tuple(int(name) for name in container.gpus if name.isdigit())
            foreign = not self._ground.is_ours(container)
            if indices and foreign:
                found += [Claim(container.label, host, indices) for host in self._ground.placed]
        return tuple(sorted(found, key=lambda claim: (claim.owner, claim.host)))
