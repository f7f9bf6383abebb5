"""Engines on this machine: start, wait for the first token, stop, observe.

In: actions on instances. Out: detached processes under a shim, ``Instance`` values. An instance is
noted on disk before anything starts, so an interrupted ``enova`` finds it again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from enova.base.digest import digest
from enova.base.errors import ActionFailed
from enova.effects.clock import Clock
from enova.effects.drivers import (
    log_words,
    ports,
    process_launch,
    process_log,
    process_table,
    serving,
)
from enova.effects.drivers.folder import TAIL_LINES, Meta, check_same
from enova.effects.drivers.ground import LOOPBACK
from enova.effects.drivers.process_folder import Folder, Life, folders
from enova.effects.drivers.process_ground import Ground
from enova.effects.packaged import PACKAGE_ROOT
from enova.stack.actions import Action, StartReplica
from enova.stack.observed import Instance, Placement, State
from enova.stack.render import engine
from enova.stack.resources import ReplicaTemplate

Progress = Callable[[str], None]

PORT_TRIES = 4
"""Starts of one instance when others take its port before it binds."""

_ID = re.compile(r"^[a-z0-9][a-z0-9._-]{0,127}$")


class Replicas:
    """The engines of one stack on this machine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._watch = serving.Watch()

    def folder(self, instance: str) -> Folder:
        """Where an instance is kept, whether it exists or not."""
        if not _ID.match(instance) or ".." in instance:
            raise ActionFailed(instance, "find", "not an instance id")
        return Folder(self._ground.instances / instance)

    def start(self, action: Action, do: StartReplica, progress: Progress) -> None:
        """Start the engine. A running one of the same digest is left alone."""
        folder = self.folder(do.instance)
        known = folder.meta()
        if known is not None and self.runs(folder):
            check_same(known, do.template.digest, action)
            return
        meta = self._note(folder, self._wanted(action, do))
        progress(f"port {meta.port}")
        self._launch(folder, meta)

    def wait_serving(self, action: Action, instance: str, progress: Progress) -> None:
        """Return once the engine answered one token. Raises ActionFailed as soon as it cannot."""
        folder = self.folder(instance)
        meta = folder.meta()
        if meta is None:
            raise ActionFailed(action.address, "wait until it serves", "it was not started")
        coming = _Coming(self, folder, meta, action, progress)
        took_s = serving.wait_serving(action, coming, clock=self._ground.clock, progress=progress)
        self._note_served(folder, took_s)

    def stop(self, action: Action, instance: str, grace_s: float, progress: Progress) -> None:
        """Stop the engine and remove what belongs to it. A missing one is stopped already."""
        folder = self.folder(instance)
        if not folder.path.exists():
            return
        process_launch.stop(
            self._ground, folder, grace_s=grace_s, address=action.address, progress=progress
        )
        process_launch.remove(self._ground, folder)
        self._watch.forget(instance)

    def serving(self, action: Action, instance: str) -> Meta:
        """The meta of an instance that runs and has answered a token. Raises ActionFailed."""
        folder = self.folder(instance)

        def ended() -> str | None:
            if self.runs(folder):
                return None
            return process_launch.ended_reason(folder)

        return serving.check_joinable(
            action, folder, ended=ended, lines=lambda: process_log.tail(folder.log, TAIL_LINES)
        )

    def observe(self) -> tuple[Instance, ...]:
        """Every instance of the stack, sorted by address then id."""
        found: list[tuple[Folder, Meta, Life]] = []
        for folder in folders(self._ground.instances):
            meta = folder.meta()
            if meta is not None:
                found.append((folder, meta, folder.life(self._ground.marks(folder.id))))
        states = self._watch.look(
            (folder, meta) for folder, meta, life in found if life is Life.RUNNING
        )
        instances = [
            self._instance(folder, meta, states.get(folder.id)) for folder, meta, _ in found
        ]
        return tuple(sorted(instances, key=lambda i: (i.address, i.id)))

    def _instance(self, folder: Folder, meta: Meta, state: State | None) -> Instance:
        ended = state is None
        return Instance(
            id=meta.id,
            address=meta.address,
            digest=meta.digest,
            fields=meta.fields,
            placement=meta.placement or Placement("local"),
            state=state or State.EXITED,
            endpoint=meta.endpoint,
            exit_reason=process_launch.ended_reason(folder) if ended else None,
            tampered=() if ended else _tampered(folder, meta),
        )

    def _program(self, template: ReplicaTemplate, address: str) -> tuple[str, ...]:
        """The words before the model."""
        if template.engine == "emulator" and not template.executable:
            return (str(self._ground.programs.python), "-m", "enova.services.emulator")
        known = self._ground.programs.engines.get(template.engine)
        path = template.executable or (str(known) if known else template.engine)
        found = shutil.which(path, path=self._ground.surroundings.get("PATH"))
        if found is None:
            raise ActionFailed(
                address,
                "start",
                f'the program "{path}" of engine {template.engine} is not on this machine; '
                "install it or set engine.executable",
            )
        return (found,) if template.engine == "emulator" else (found, "serve")

    def _wanted(self, action: Action, do: StartReplica) -> Meta:
        """Everything to be noted, before a port is chosen."""
        template = do.template
        program = self._program(template, action.address)
        environment = engine.environment(
            template, do.placement, address=action.address, instance=do.instance
        )
        if template.engine == "emulator":
            environment.setdefault("PYTHONPATH", str(PACKAGE_ROOT))
        try:
            argv = engine.command(template, program=program, host=LOOPBACK, port=0)
        except ValueError as error:
            raise ActionFailed(action.address, "start", str(error)) from error
        return Meta(
            id=do.instance,
            address=action.address,
            digest=template.digest,
            fields=template.fields(),
            host=LOOPBACK,
            port=0,
            placement=do.placement,
            service=template.service,
            served_name=template.served_name,
            engine=template.engine,
            argv=argv,
            environment=environment,
            secret_env=template.secret_env,
            cause=action.cause,
            created_s=self._ground.clock.now(),
        )

    def _note(self, folder: Folder, wanted: Meta) -> Meta:
        """Choose a port and write everything down, before anything runs."""
        with self._ground.choosing_ports() as taken:
            self._sweep()
            port = ports.free_port(taken, seed=f"{wanted.id}.{wanted.port_tries}")
            meta = replace(wanted, port=port, argv=engine.at_port(wanted.argv, port))
            self._ground.prepare(folder.path)
            folder.write_meta(meta)
        return meta

    def _launch(self, folder: Folder, meta: Meta) -> None:
        values = self._ground.secrets(meta.secret_env, meta.address)
        process_launch.start(
            self._ground,
            folder,
            meta.argv,
            environment=self._ground.environment(meta.id, {**meta.environment, **values}),
            secret_env=sorted(values),
            cores=meta.placement.cores if meta.placement else (),
            address=meta.address,
        )

    def _sweep(self) -> None:
        """Remove folders that were cut short before they were noted: nothing ever ran in them."""
        for folder in folders(self._ground.instances):
            if not (folder.path / "meta.json").exists() and folder.shim() is None:
                shutil.rmtree(folder.path, ignore_errors=True)

    @property
    def clock(self) -> Clock:
        """The ground's."""
        return self._ground.clock

    def runs(self, folder: Folder) -> bool:
        """Whether this engine runs."""
        return folder.life(self._ground.marks(folder.id)) is Life.RUNNING

    def again_if_port_lost(
        self, folder: Folder, meta: Meta, action: Action, progress: Progress
    ) -> Meta:
        """Start once more when somebody else took the port first; else say why it ended."""
        process_launch.await_note(folder)
        lines = process_log.tail(folder.log, TAIL_LINES)
        ended = folder.exit()
        lost = ended is not None and not ended.asked and log_words.address_in_use(ended.last_lines)
        if not lost or meta.port_tries >= PORT_TRIES:
            reason = process_launch.ended_reason(folder)
            raise ActionFailed(action.address, "wait until it serves", reason, lines)
        fresh = self._note(folder, replace(meta, port_tries=meta.port_tries + 1))
        progress(f"port {meta.port} was taken, now {fresh.port}")
        self._launch(folder, fresh)
        return fresh

    def _note_served(self, folder: Folder, took_s: float) -> None:
        process = folder.process()
        folder.write_served(
            {
                "at": self._ground.clock.now(),
                "took_s": round(took_s, 3),
                "command_line": list(process_table.command_line(process.pid)) if process else [],
                "cores": sorted(process_table.affinity(process.pid)) if process else [],
            }
        )


@dataclass
class _Coming:
    """One engine on its way, which is started again when others take its port."""

    replicas: Replicas
    folder: Folder
    meta: Meta
    action: Action
    progress: Progress

    def check(self) -> Meta:
        if not self.replicas.runs(self.folder):
            self.meta = self.replicas.again_if_port_lost(
                self.folder, self.meta, self.action, self.progress
            )
        return self.meta

    def lines(self, count: int) -> list[str]:
        return process_log.tail(self.folder.log, count)

    def pause(self, seconds: float) -> None:
        process = self.folder.process()
        if process is None:
            self.replicas.clock.sleep(seconds)
        else:
            process_table.wait_gone([process], timeout_s=seconds)


def _tampered(folder: Folder, meta: Meta) -> tuple[str, ...]:
    """What differs between when it first served and now. A wrapper script or a changed process
    title looks the same at both times and is none of our business."""
    served, process = folder.served(), folder.process()
    found = []
    if digest(meta.fields) != meta.digest:
        found.append("the note of what it was started with was changed")
    if served is None or process is None:
        return tuple(found)
    command_line = process_table.command_line(process.pid)
    if not command_line:
        return tuple(found)  # it is ending in this moment: that is no change of anybody
    if served.get("command_line") != list(command_line):
        found.append("the command line is not the one it was started with")
    if served.get("cores") != sorted(process_table.affinity(process.pid)):
        found.append("it runs on other cores than it was given")
    return tuple(found) if process.alive() else ()
