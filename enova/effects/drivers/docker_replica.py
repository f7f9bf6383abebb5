"""Engines in containers: start, wait for the first token, stop, observe.

In: actions on instances. Out: one container each, ``Instance`` values. An instance is noted on
disk before its container is made, so an interrupted ``enova`` finds it again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from enova.base.digest import digest
from enova.base.errors import ActionFailed
from enova.effects.clock import Clock
from enova.effects.drivers import docker_container, serving
from enova.effects.drivers.docker_container import (
    ADDRESS,
    DIGEST,
    FIELDS,
    INSTANCE,
    KIND,
    Container,
)
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import with_service
from enova.effects.drivers.docker_services import Services
from enova.effects.drivers.folder import (
    LOG,
    META,
    TAIL_LINES,
    Folder,
    Meta,
    check_same,
    folders,
    forget_old,
)
from enova.stack.actions import Action, StartReplica
from enova.stack.observed import Instance, Placement, State
from enova.stack.render import compose

Progress = Callable[[str], None]

KEPT_LINES = 2000
"""Of the output of a failed instance that was removed."""

_ID = re.compile(r"^[a-z0-9][a-z0-9._-]{0,127}$")
_NOT_OURS = "nothing here accounts for it: enova did not start it, or lost its note"


class Replicas:
    """The engines of one stack in containers."""

    def __init__(self, ground: Ground, services: Services) -> None:
        self._ground = ground
        self._services = services
        self._watch = serving.Watch()

    def folder(self, instance: str) -> Folder:
        """Where an instance is kept, whether it exists or not."""
        if not _ID.match(instance) or ".." in instance:
            raise ActionFailed(instance, "find", "not an instance id")
        return Folder(self._ground.instances / instance)

    def start(self, action: Action, do: StartReplica, progress: Progress) -> None:
        """Start the engine. A running one of the same digest is left alone."""
        folder, services = self.folder(do.instance), self._services
        known, container = folder.meta(), services.find(do.instance)
        if known is not None and services.ended(folder, container) is None:
            check_same(known, do.template.digest, action)
            return
        if container is not None:
            services.down(container.service, grace_s=0, address=action.address)
        services.forget_run(folder)

        def make(project: compose.Project, ip: str) -> Meta:
            return self._meta(action, do, project, ip)

        meta = services.notes.note(folder, action.address, make)
        values = self._ground.secrets(meta.secret_env, meta.address)
        variables = {
            compose.secret_variable(meta.service, name): value for name, value in values.items()
        }
        services.up(folder, meta, do.instance, progress=progress, variables=variables)

    def wait_serving(self, action: Action, instance: str, progress: Progress) -> None:
        """Return once the engine answered one token. Raises ActionFailed as soon as it cannot."""
        folder = self.folder(instance)
        meta = folder.meta()
        if meta is None:
            raise ActionFailed(action.address, "wait until it serves", "it was not started")
        coming = _Coming(self._ground, self._services, folder, meta, action, progress)
        took_s = serving.wait_serving(action, coming, clock=self._ground.clock, progress=progress)
        folder.write_served({"at": self._ground.clock.now(), "took_s": round(took_s, 3)})

    def stop(self, action: Action, instance: str, grace_s: float) -> None:
        """Stop the engine and remove what belongs to it. A missing one is stopped already."""
        folder, services = self.folder(instance), self._services
        services.remove_orphans(instance, grace_s=grace_s)
        if not folder.path.exists():
            return
        container = services.find(instance)
        failed = folder.served() is None or services.ended(folder, container) is not None
        if container is not None:
            if failed:
                self._keep_output(folder, services.lines(container, KEPT_LINES))
            services.down(instance, grace_s=grace_s, address=action.address)
        services.notes.forget(folder, lambda: shutil.rmtree(folder.path, ignore_errors=True))
        self._watch.forget(instance)

    def serving(self, action: Action, instance: str) -> Meta:
        """The meta of an instance that runs and has answered a token. Raises ActionFailed."""
        folder = self.folder(instance)
        container = self._services.find(instance)
        return serving.check_joinable(
            action,
            folder,
            ended=lambda: self._services.ended(folder, container),
            lines=lambda: self._services.lines(container, TAIL_LINES) if container else [],
        )

    def observe(self) -> tuple[Instance, ...]:
        """Every instance of the stack, sorted by address then id."""
        services = self._services
        seen = services.seen()
        found: list[tuple[Folder, Meta, Container | None, str | None]] = []
        for folder in folders(self._ground.instances):
            meta = folder.meta()
            if meta is not None:
                container = seen.by_service.get(folder.id)
                found.append((folder, meta, container, services.ended(folder, container)))
        states = self._watch.look((f, meta) for f, meta, _, ended in found if ended is None)
        instances = [
            self._instance(folder, meta, container, ended, states.get(folder.id))
            for folder, meta, container, ended in found
        ]
        instances += [_orphan(c) for c in seen.orphans if c.labels.get(KIND) == "replica"]
        return tuple(sorted(instances, key=lambda i: (i.address, i.id)))

    def _instance(
        self,
        folder: Folder,
        meta: Meta,
        container: Container | None,
        ended: str | None,
        state: State | None,
    ) -> Instance:
        tampered: tuple[str, ...] = ()
        if ended is None and container is not None:
            tampered = self._services.tampered(folder, meta, container)
            if digest(meta.fields) != meta.digest:
                tampered = ("the note of what it was started with was changed", *tampered)
            if docker_container.restarting(container) and state is not State.STARTING:
                state = State.UNHEALTHY
        return Instance(
            id=meta.id,
            address=meta.address,
            digest=meta.digest,
            fields=meta.fields,
            placement=meta.placement or Placement(self._ground.placed[0]),
            state=State.EXITED if ended is not None else state or State.STARTING,
            endpoint=meta.endpoint,
            exit_reason=ended,
            tampered=tampered,
        )

    def _meta(self, action: Action, do: StartReplica, project: compose.Project, ip: str) -> Meta:
        """Everything to be noted before the container is made."""
        template = do.template
        try:
            service = compose.replica(
                project,
                instance=do.instance,
                address=action.address,
                template=template,
                placement=do.placement,
                ip=ip,
                image=compose.engine_image(template),
                apply=do.instance.rpartition("-")[2],
                cache=compose.cache_of(template),
            )
        except ValueError as error:
            raise ActionFailed(action.address, "start", str(error)) from error
        meta = Meta(
            id=do.instance,
            address=action.address,
            digest=template.digest,
            fields=template.fields(),
            host=ip,
            port=compose.ENGINE_PORT,
            placement=do.placement,
            service=template.service,
            served_name=template.served_name,
            engine=template.engine,
            secret_env=template.secret_env,
            cause=action.cause,
            created_s=self._ground.clock.now(),
        )
        return with_service(meta, do.instance, service, ip)

    def _keep_output(self, folder: Folder, lines: list[str]) -> None:
        """Keep the output of one that failed, for a while."""
        ground = self._ground
        kept = ground.prepare(ground.last) / folder.id
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        (kept / LOG).write_text("".join(f"{line}\n" for line in lines))
        if (folder.path / META).exists():
            shutil.copy(folder.path / META, kept / META)
        forget_old(ground.last)


@dataclass
class _Coming:
    """One engine on its way. Docker would start a failing one again for ever: its first end is
    taken for good."""

    ground: Ground
    services: Services
    folder: Folder
    meta: Meta
    action: Action
    progress: Progress
    container: Container | None = None
    told: set[str] = field(default_factory=set)

    @property
    def _clock(self) -> Clock:
        return self.ground.clock

    def check(self) -> Meta:
        self.container = self.services.find(self.folder.id)
        reason = self.services.ended(self.folder, self.container)
        if reason is not None:
            lines = self.lines(TAIL_LINES)
            self.services.fail(self.folder, self.container, reason)
            raise ActionFailed(self.action.address, "wait until it serves", reason, lines)
        return self.meta

    def lines(self, count: int) -> list[str]:
        if self.container is None:
            return []
        for event in self.ground.engine.events(self.container, since=self.meta.created_s):
            # Checks come as exec_create and the like, with their whole command.
            if not event.startswith("exec_") and event not in self.told:
                self.told.add(event)
                self.progress(f"docker: {event}")
        return self.services.lines(self.container, count)

    def pause(self, seconds: float) -> None:
        self._clock.sleep(seconds)


def _orphan(container: Container) -> Instance:
    """A container of the stack that has no note: it is never taken for a good one."""
    labels = container.labels
    try:
        pairs = json.loads(labels.get(FIELDS, "[]"))
        fields = tuple((str(path), value) for path, value in pairs)
    except (ValueError, TypeError):
        fields = ()
    ended = docker_container.ended(container, created=True, served=True)
    return Instance(
        id=labels.get(INSTANCE) or container.name,
        address=labels.get(ADDRESS, ""),
        digest=labels.get(DIGEST, ""),
        fields=fields,
        placement=Placement(
            "",
            gpus=tuple(int(name) for name in container.gpus if name.isdigit()),
            cores=container.cores,
            memory_bytes=0,
        ),
        state=State.EXITED if ended is not None else State.STARTING,
        exit_reason=ended,
        tampered=(_NOT_OURS,) if ended is None else (),
    )
