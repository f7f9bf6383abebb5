"""Engines on this machine: start, wait for the first token, stop, observe.

In: actions on instances. Out: detached processes under a shim, ``Instance`` values. An instance is
noted on disk before anything starts, so an interrupted ``enova`` finds it again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from enova.base.digest import digest
from enova.base.errors import ActionFailed, Unreachable
from enova.effects.drivers import (
    ports,
    process_launch,
    process_log,
    process_probe,
    process_table,
)
from enova.effects.drivers.process_folder import Folder, Life, Meta, folders
from enova.effects.drivers.process_ground import LOOPBACK, Ground
from enova.effects.drivers.process_probe import Health
from enova.effects.packaged import PACKAGE_ROOT
from enova.stack.actions import Action, StartReplica
from enova.stack.observed import Instance, Placement, State
from enova.stack.render import engine
from enova.stack.resources import ReplicaTemplate

Progress = Callable[[str], None]

PORT_TRIES = 4
"""Starts of one instance when others take its port before it binds."""

TOKEN_TIMEOUT_S = 60.0
HEALTH_TIMEOUT_S = 2.0
SILENT_TIMES = 3
"""Health probes in a row without an answer that make a serving engine unhealthy: late under load
is not dead."""

_LOOK_S = 0.1
_LOOK_LATER_S = 0.5
_RETRIED = (408, 425, 429)
_ID = re.compile(r"^[a-z0-9][a-z0-9._-]{0,127}$")


class Replicas:
    """The engines of one stack on this machine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._silent: dict[str, int] = {}

    def folder(self, instance: str) -> Folder:
        """Where an instance is kept, whether it exists or not."""
        if not _ID.match(instance) or ".." in instance:
            raise ActionFailed(instance, "find", "not an instance id")
        return Folder(self._ground.instances / instance)

    def start(self, action: Action, do: StartReplica, progress: Progress) -> None:
        """Start the engine. A running one of the same digest is left alone."""
        folder = self.folder(do.instance)
        known = folder.meta()
        if known is not None and folder.life(self._ground.marks(do.instance)) is Life.RUNNING:
            process_launch.check_same(known, do.template.digest, action)
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
        clock = self._ground.clock
        begin = clock.monotonic()
        end = begin + action.timeout_s
        told: list[str] = []

        def tell(words: Sequence[str]) -> None:
            for word in words:
                if word not in told:
                    told.append(word)
                    progress(word)

        tell(["process"])
        listening = False
        while True:
            if folder.life(self._ground.marks(instance)) is not Life.RUNNING:
                meta = self._again_if_port_lost(folder, meta, action, progress)
                listening = False
            lines = process_log.tail(folder.log, 400)
            tell(process_log.phases(lines))
            if not listening:
                probe = process_probe.health(
                    meta.host, meta.port, path=engine.HEALTH_PATH, timeout_s=HEALTH_TIMEOUT_S
                )
                listening = probe is Health.OK
            if listening:
                tell(["http"])
                left = max(1.0, end - clock.monotonic())
                if self._answers(meta, action, folder, timeout_s=min(left, TOKEN_TIMEOUT_S)):
                    self._note_served(folder, clock.monotonic() - begin)
                    tell(["first token"])
                    return
            if clock.monotonic() >= end:
                raise ActionFailed(
                    action.address,
                    "wait until it serves",
                    f"no token within {action.timeout_s:.0f} s; reached: {', '.join(told)}",
                    lines[-process_launch.TAIL_LINES :],
                )
            early = clock.monotonic() - begin < 5.0
            process = folder.process()
            look = _LOOK_S if early else _LOOK_LATER_S
            if process is None:
                clock.sleep(look)
            else:
                process_table.wait_gone([process], timeout_s=look)

    def stop(self, action: Action, instance: str, grace_s: float, progress: Progress) -> None:
        """Stop the engine and remove what belongs to it. A missing one is stopped already."""
        folder = self.folder(instance)
        if not folder.path.exists():
            return
        process_launch.stop(
            self._ground, folder, grace_s=grace_s, address=action.address, progress=progress
        )
        process_launch.remove(self._ground, folder)
        self._silent.pop(instance, None)

    def serving(self, action: Action, instance: str) -> Meta:
        """The meta of an instance that runs and has answered a token. Raises ActionFailed."""
        folder = self.folder(instance)
        meta = folder.meta()
        if meta is None:
            raise ActionFailed(action.address, "join", f"{instance} does not exist")
        if folder.life(self._ground.marks(instance)) is not Life.RUNNING:
            raise ActionFailed(
                action.address,
                "join",
                f"{instance} does not run: {process_launch.ended_reason(folder)}",
                process_log.tail(folder.log, process_launch.TAIL_LINES),
            )
        if folder.served() is None:
            raise ActionFailed(action.address, "join", f"{instance} has not answered a token yet")
        return meta

    def observe(self) -> tuple[Instance, ...]:
        """Every instance of the stack, sorted by address then id."""
        found: list[tuple[Folder, Meta, Life]] = []
        for folder in folders(self._ground.instances):
            meta = folder.meta()
            if meta is not None:
                found.append((folder, meta, folder.life(self._ground.marks(folder.id))))
        asked = [
            (folder, meta)
            for folder, meta, life in found
            if life is Life.RUNNING and folder.served() is not None
        ]
        answers = process_probe.health_of(
            [(meta.host, meta.port, engine.HEALTH_PATH) for _, meta in asked],
            timeout_s=HEALTH_TIMEOUT_S,
        )
        health = {folder.id: answer for (folder, _), answer in zip(asked, answers, strict=True)}
        instances = [
            self._instance(folder, meta, life, health.get(folder.id))
            for folder, meta, life in found
        ]
        return tuple(sorted(instances, key=lambda i: (i.address, i.id)))

    def _instance(self, folder: Folder, meta: Meta, life: Life, health: Health | None) -> Instance:
        ended = life is not Life.RUNNING
        return Instance(
            id=meta.id,
            address=meta.address,
            digest=meta.digest,
            fields=meta.fields,
            placement=meta.placement or Placement("local"),
            state=State.EXITED if ended else self._state(meta.id, health),
            endpoint=meta.endpoint,
            exit_reason=process_launch.ended_reason(folder) if ended else None,
            tampered=() if ended else _tampered(folder, meta),
        )

    def _state(self, instance: str, health: Health | None) -> State:
        if health is None:
            return State.STARTING
        silent = self._silent.get(instance, 0) + 1 if health is Health.SILENT else 0
        self._silent[instance] = silent
        if health in (Health.REFUSED, Health.FAILING) or silent >= SILENT_TIMES:
            return State.UNHEALTHY
        return State.SERVING

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
        environment = engine.environment(template, do.placement)
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

    def _again_if_port_lost(
        self, folder: Folder, meta: Meta, action: Action, progress: Progress
    ) -> Meta:
        """Start once more when somebody else took the port first; else say why it ended."""
        process_launch.await_note(folder)
        lines = process_log.tail(folder.log, process_launch.TAIL_LINES)
        ended = folder.exit()
        lost = (
            ended is not None and not ended.asked and process_log.address_in_use(ended.last_lines)
        )
        if not lost or meta.port_tries >= PORT_TRIES:
            reason = process_launch.ended_reason(folder)
            raise ActionFailed(action.address, "wait until it serves", reason, lines)
        fresh = self._note(folder, replace(meta, port_tries=meta.port_tries + 1))
        progress(f"port {meta.port} was taken, now {fresh.port}")
        self._launch(folder, fresh)
        return fresh

    def _answers(self, meta: Meta, action: Action, folder: Folder, *, timeout_s: float) -> bool:
        """Whether it answers one token now. Raises ActionFailed when it says it never will."""
        try:
            reply = process_probe.one_token(
                meta.host, meta.port, model=meta.served_name, timeout_s=timeout_s
            )
        except Unreachable:
            return False
        if process_probe.answered(reply):
            return True
        if 400 <= reply.status < 500 and reply.status not in _RETRIED:
            raise ActionFailed(
                action.address,
                "wait until it serves",
                f"it refuses a one-token request with {reply.status}: {reply.body[:300].strip()}",
                process_log.tail(folder.log, process_launch.TAIL_LINES),
            )
        return False

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
