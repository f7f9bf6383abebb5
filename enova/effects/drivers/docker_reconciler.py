"""The stack's own reconciler in a container: started last, and gone before anything else goes.

In: its resource. Out: a container that runs ``enova reconcile`` on the same state folder and the
same engine. Whether it does its work is read from its note there (``state.keeper``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from enova.base.address import RECONCILER
from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import with_service
from enova.effects.drivers.docker_services import Services
from enova.effects.drivers.folder import Folder, Meta, check_same, folders
from enova.effects.state.keeper import Keeper, read_keeper
from enova.effects.state.store import StateDir
from enova.stack import reconciling
from enova.stack.actions import Action, StartReconciler
from enova.stack.observed import Component, State
from enova.stack.render import compose, compose_reconciler
from enova.stack.resources import ReconcilerResource

Progress = Callable[[str], None]

READY_S = 60.0
"""From its container to its first look: importing, and asking the engine."""


class Reconcilers:
    """The reconciler of one stack. ``sees_gpus``: whether the pool has any on this machine."""

    def __init__(
        self, ground: Ground, services: Services, *, sees_gpus: Callable[[], bool]
    ) -> None:
        self._ground = ground
        self._services = services
        self._sees_gpus = sees_gpus

    @property
    def runnable(self) -> bool:
        """Whether its image is here. No registry has it, so none is asked."""
        return self._ground.engine.image(reconciling.image()) is not None

    def start(self, action: Action, do: StartReconciler, progress: Progress) -> None:
        """Start it; a running one of that id is left alone. Raises ActionFailed."""
        folder, wanted, services = self._folder(do.component), do.reconciler, self._services
        known, container = folder.meta(), services.find(do.component)
        if known is not None and services.ended(folder, container) is None:
            check_same(known, wanted.digest, action)
            self._await_look(folder, action)
            return
        if self._ground.engine.image(wanted.image) is None:
            raise ActionFailed(
                action.address,
                "start",
                f"the image {wanted.image} is not here. Make it (make image), or set "
                "pool.reconciler to off",
            )
        given = self._variables(wanted, action)
        if container is not None:
            services.down(do.component, grace_s=0, address=action.address)
        services.forget_run(folder)
        meta = services.notes.note(
            folder,
            action.address,
            lambda project, ip: self._meta(action, folder, wanted, project, ip),
        )
        services.up(folder, meta, folder.id, progress=progress, variables=given)
        self._await_look(folder, action)
        folder.write_served({"at": self._ground.clock.now()})

    def stop(self, action: Action, component: str) -> None:
        """Stop it, after the steps it is at."""
        grace_s = compose_reconciler.STOP_S
        folder = self._folder(component)
        self._services.remove_orphans(component, grace_s=grace_s)
        if not folder.path.exists():
            return
        self._services.down(component, grace_s=grace_s, address=action.address)
        if self._note_of(component) is not None:
            # It was killed, or it would have taken its note away.
            self._state.keeper_file.unlink(missing_ok=True)
        self._services.notes.forget(folder, lambda: shutil.rmtree(folder.path, ignore_errors=True))

    def observe(self) -> tuple[Component, ...]:
        """Every reconciler of the stack, sorted by id: one, or none."""
        seen = self._services.seen()
        found = []
        for folder in folders(self._ground.components):
            meta = folder.meta()
            if meta is None or meta.address != RECONCILER:
                continue
            ended = self._services.ended(folder, seen.by_service.get(folder.id))
            state = State.EXITED
            if ended is None:
                # Beside another one, whose note is the newer, it is taken at its word.
                note = read_keeper(self._state)
                looks = self._looks(folder.id) or (
                    note is not None and note.holder.host != folder.id
                )
                served = folder.served() is not None
                state = State.SERVING if looks else State.UNHEALTHY if served else State.STARTING
            found.append(
                Component(
                    id=meta.id,
                    address=meta.address,
                    digest=meta.digest,
                    fields=meta.fields,
                    state=state,
                    exit_reason=ended,
                )
            )
        return tuple(found)

    def _meta(
        self,
        action: Action,
        folder: Folder,
        wanted: ReconcilerResource,
        project: compose.Project,
        ip: str,
    ) -> Meta:
        meta = Meta(
            id=folder.id,
            address=action.address,
            digest=wanted.digest,
            fields=wanted.fields(),
            host=ip,
            port=0,
            secret_env=tuple((name, SecretRef(env=name)) for name in wanted.variables),
            cause=action.cause,
            created_s=self._ground.clock.now(),
        )
        socket = self._ground.engine.socket.resolve()
        service = compose_reconciler.reconciler(
            project,
            component=folder.id,
            resource=wanted,
            ip=ip,
            apply=folder.id.rpartition("-")[2],
            root=str(self._ground.state.parent),
            folder=str(self._ground.state),
            socket=str(socket),
            socket_group=socket.stat().st_gid,
            gpus=self._sees_gpus(),
        )
        return with_service(meta, folder.id, service, ip)

    def _variables(self, wanted: ReconcilerResource, action: Action) -> dict[str, str]:
        """By the names that Compose knows them by, the values its secrets have now."""
        references = [(name, SecretRef(env=name)) for name in wanted.variables]
        values = self._ground.secrets(references, action.address)
        return {given: values[name] for name, given in compose_reconciler.variables(wanted)}

    def _await_look(self, folder: Folder, action: Action) -> None:
        """Wait until it looked once. What it saw then is its own affair, and in its output."""
        self._services.await_true(
            lambda: self._looks(folder.id),
            folder,
            action,
            within_s=READY_S,
            otherwise="it did not look after the stack",
        )

    def _looks(self, component: str) -> bool:
        note = self._note_of(component)
        return note is not None and self._ground.clock.now() - note.at < compose_reconciler.STALE_S

    def _note_of(self, component: str) -> Keeper | None:
        """The note, if it is its own and no other reconciler's that looked since."""
        note = read_keeper(self._state)
        return note if note is not None and note.holder.host == component else None

    @property
    def _state(self) -> StateDir:
        ground = self._ground
        return StateDir(ground.state.parent, ground.name, ground.env)

    def _folder(self, component: str) -> Folder:
        return Folder(self._ground.components / component)
