"""A target without hardware: it obeys the driver contract on a world that is a value.

Not a mock: what is started takes devices, serves once waited for, joins, drains and stops by the
same rules as real replicas, and nothing decides but the actions. Faults are switches that act at
a stated place, the same in every run. With a file, several processes share one world.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from enova.base.errors import ActionFailed, Refused, Unreachable
from enova.capacity.inventory import Inventory
from enova.effects.drivers.base import ImageAnswer, Progress
from enova.effects.drivers.fake_world import FakeComponent, FakeInstance, Faults, Foreign, World
from enova.effects.state.files import locked, replace_file
from enova.stack.actions import (
    Action,
    ChangeGateway,
    ChangeMonitor,
    Drain,
    Join,
    Leave,
    RemoveStack,
    StartGateway,
    StartMonitor,
    StartReconciler,
    StartReplica,
    StopGateway,
    StopMonitor,
    StopReconciler,
    StopReplica,
    WaitServing,
)
from enova.stack.observed import Component, Instance, Member, Observed, State

__all__ = ["FakeDriver", "Faults", "Foreign", "Killed", "World"]


class Killed(BaseException):
    """The whole process dies here, as far as everything above the driver can tell."""


class FakeDriver:
    """A driver over a ``World``. Safe for threads; for processes too when it has a file."""

    def __init__(
        self,
        world: World,
        *,
        file: Path | None = None,
        die: Callable[[], None] | None = None,
    ) -> None:
        """``die`` is what a kill fault does; SIGKILL when there is a file, else ``Killed``."""
        self._world = world
        self._file = file
        self._die = die or (_kill_this_process if file is not None else _raise_killed)
        self._guard = threading.RLock()
        self.performed: list[Action] = []
        """What was asked of this driver object, in order, also what failed."""

    @classmethod
    def from_world(cls, data: Mapping[str, object]) -> FakeDriver:
        """The driver of the world that plain data describe. Raises ValueError."""
        return cls(World.from_plain(data))

    @classmethod
    def at(cls, file: Path, *, inventory: Inventory | None = None) -> FakeDriver:
        """The driver of the world in a JSON file, made with ``inventory`` when there is none."""
        driver = cls(World(inventory=inventory or Inventory(hosts=())), file=file)
        with driver._changed():
            return driver

    def to_world(self) -> dict[str, object]:
        """The world as plain data, for ``from_world``."""
        with self._looked():
            return self._world.to_plain()

    @contextmanager
    def edit(self) -> Iterator[World]:
        """Change the world from outside: set faults, exit an instance, stop a host."""
        with self._changed():
            yield self._world

    def inventory(self) -> Inventory:
        """The pool, with what foreign programs hold in it."""
        with self._looked():
            return self._world.pool()

    def runs_monitors(self) -> frozenset[str]:
        """Those the world says: they are pretended like everything here."""
        with self._looked():
            return frozenset(self._world.monitors)

    def ask_registries(self, references: Collection[str]) -> Mapping[str, ImageAnswer]:
        """What the world's one registry says; without one nobody answers."""
        with self._looked():
            known = self._world.registry
            if known is None:
                return {one: ImageAnswer(None, "registry: no such host") for one in references}
            return {
                one: ImageAnswer(known[one])
                if one in known
                else ImageAnswer(None, "manifest unknown")
                for one in references
            }

    def gateway_metrics(self) -> str | None:
        """Nothing real listens, so there is nothing to read."""
        return None

    def tend(self) -> None:
        """Nothing grows here."""

    def observe(self) -> Observed:
        """What of this stack runs. Foreign programs never appear."""
        with self._looked():
            world = self._world
            lost = world.faults.unreachable
            instances = [
                _seen(one, host_lost=one.placement.host in lost) for one in world.instances.values()
            ]
            components = [_seen_component(one) for one in world.components.values()]
            return Observed(
                instances=tuple(sorted(instances, key=lambda one: (one.address, one.id))),
                components=tuple(sorted(components, key=lambda one: (one.address, one.id))),
                members={
                    service: tuple(members[name] for name in sorted(members))
                    for service, members in sorted(world.members.items())
                    if members
                },
                unreachable_hosts=tuple(sorted(lost)),
            )

    def perform(self, action: Action, progress: Progress) -> None:
        """Do one action. Raises ActionFailed or Unreachable."""
        with self._changed():
            self.performed.append(action)
            world = self._world
            world.count += 1
            fails = world.count in world.faults.fail_at
            kills = world.faults.kill_at == world.count
            if kills and not world.faults.kill_after:
                world.faults.kill_at = 0
                self._save()
                self._die()
            if fails:
                raise ActionFailed(
                    action.address, action.do.kind, "the fault switch says so", ("injected fault",)
                )
            self._do(action, progress)
            if kills:
                world.faults.kill_at = 0
                self._save()
                self._die()

    def logs(self, instance: str, *, tail: int, follow: bool) -> Iterator[str]:
        """The last ``tail`` log lines; there is nothing to follow. Raises Refused."""
        with self._looked():
            known = self._world.instances.get(instance) or self._world.components.get(instance)
            if known is None:
                raise Refused(f"There is no {instance} in this stack.")
            return iter(known.log[-tail:] if tail > 0 else [])

    def _do(self, action: Action, progress: Progress) -> None:
        do = action.do
        match do:
            case StartReplica():
                self._start(action, do)
            case WaitServing():
                self._wait_serving(action, do, progress)
            case Join():
                self._join(action, do)
            case Drain():
                self._drain(do)
            case Leave():
                self._world.members.get(do.service, {}).pop(do.instance, None)
            case StopReplica():
                self._stop(do)
            case StartGateway():
                endpoint = f"{do.gateway.host}:{do.gateway.port}"
                self._refuse_second(action, do.component)
                self._start_component(
                    action, do.component, do.gateway.digest, do.gateway.fields(), endpoint
                )
            case ChangeGateway():
                self._change_gateway(action, do)
            case StartMonitor():
                port = do.monitor.port or self._world.next_port()
                endpoint = f"{do.monitor.host}:{port}"
                self._start_component(
                    action, do.component, do.monitor.digest, do.monitor.fields(), endpoint
                )
            case ChangeMonitor():
                known = self._changed_component(action, do.component, do.monitor.digest)
                known.digest, known.fields = do.monitor.digest, do.monitor.fields()
            case StartReconciler():
                wanted = do.reconciler
                self._start_component(action, do.component, wanted.digest, wanted.fields(), "")
            case StopGateway() | StopMonitor() | StopReconciler():
                self._world.components.pop(do.component, None)
            case RemoveStack():
                self._remove_stack(action)

    def _start(self, action: Action, do: StartReplica) -> None:
        world, host = self._world, do.placement.host
        self._reach(host)
        known = world.instances.get(do.instance)
        if known is not None and known.state is not State.EXITED:
            if known.digest == do.template.digest:
                return
            raise ActionFailed(
                action.address, "start", f"{do.instance} runs already, with another configuration"
            )
        reason = world.no_room(do.placement, but=do.instance)
        if reason is not None:
            raise ActionFailed(action.address, "start", reason)
        world.instances[do.instance] = FakeInstance(
            id=do.instance,
            address=action.address,
            digest=do.template.digest,
            fields=do.template.fields(),
            placement=do.placement,
            state=State.STARTING,
            port=world.next_port(),
            log=[f"{do.template.engine} {do.template.engine_version} loads {do.template.model}"],
        )

    def _wait_serving(self, action: Action, do: WaitServing, progress: Progress) -> None:
        step = "wait until it serves"
        instance = self._world.instances.get(do.instance)
        if instance is None:
            raise ActionFailed(action.address, step, "it was not started")
        self._reach(instance.placement.host)
        progress("weights")
        refusal = self._world.faults.refuse.get(instance.digest)
        if refusal is not None and instance.state is State.STARTING:
            instance.exit(refusal)
        if instance.state is State.EXITED:
            reason = instance.exit_reason or "it exited"
            raise ActionFailed(action.address, step, reason, tuple(instance.log))
        if instance.state is State.UNHEALTHY:
            raise ActionFailed(action.address, step, "it does not answer", tuple(instance.log))
        instance.state = State.SERVING
        instance.log.append("answered one token")
        progress("ready")

    def _join(self, action: Action, do: Join) -> None:
        instance = self._world.instances.get(do.instance)
        if instance is None:
            raise ActionFailed(action.address, "join", f"{do.instance} does not exist")
        if instance.state is State.EXITED:
            reason = f"{do.instance} does not run: {instance.exit_reason or 'it exited'}"
            raise ActionFailed(action.address, "join", reason, tuple(instance.log))
        if instance.state is State.STARTING:
            raise ActionFailed(
                action.address, "join", f"{do.instance} has not answered a token yet"
            )
        members = self._world.members.setdefault(do.service, {})
        members[do.instance] = Member(do.instance, instance.endpoint, do.weight)

    def _drain(self, do: Drain) -> None:
        members = self._world.members.get(do.service, {})
        member = members.get(do.instance)
        if member is not None:
            members[do.instance] = Member(
                member.instance, member.endpoint, member.weight, draining=True
            )

    def _stop(self, do: StopReplica) -> None:
        instance = self._world.instances.get(do.instance)
        if instance is None:
            return
        self._reach(instance.placement.host)
        serves_requests = instance.state is State.SERVING and any(
            do.instance in members and not members[do.instance].draining
            for members in self._world.members.values()
        )
        if serves_requests:
            self._world.stopped_while_joined.append(do.instance)
        del self._world.instances[do.instance]

    def _change_gateway(self, action: Action, do: ChangeGateway) -> None:
        known = self._changed_component(action, do.component, do.gateway.digest)
        known.digest, known.fields = do.gateway.digest, do.gateway.fields()
        known.endpoint = f"{do.gateway.host}:{do.gateway.port}"

    def _changed_component(self, action: Action, name: str, digest: str) -> FakeComponent:
        """The running component that takes over a configuration, unless it refuses that."""
        known = self._world.components.get(name)
        if known is None or known.state is State.EXITED:
            raise ActionFailed(action.address, "change", f"{name} does not run")
        refusal = self._world.faults.refuse.get(digest)
        if refusal is not None:
            raise ActionFailed(action.address, "change", refusal, (f"fatal: {refusal}",))
        return known

    def _refuse_second(self, action: Action, name: str) -> None:
        for other in self._world.components.values():
            same = other.address == action.address and other.state is not State.EXITED
            if same and other.id != name:
                raise ActionFailed(action.address, "start", f"{other.id} runs already")

    def _start_component(
        self,
        action: Action,
        name: str,
        digest: str,
        fields: tuple[tuple[str, str | int | float | bool | None], ...],
        endpoint: str,
    ) -> None:
        known = self._world.components.get(name)
        if known is not None and known.state is not State.EXITED:
            if known.digest == digest:
                return
            raise ActionFailed(
                action.address, "start", f"{name} runs already, with another configuration"
            )
        refusal = self._world.faults.refuse.get(digest)
        if refusal is not None:
            raise ActionFailed(action.address, "start", refusal, (f"fatal: {refusal}",))
        self._world.components[name] = FakeComponent(
            id=name,
            address=action.address,
            digest=digest,
            fields=fields,
            state=State.SERVING,
            endpoint=endpoint,
            log=["ready"],
        )

    def _remove_stack(self, action: Action) -> None:
        world = self._world
        running = [one.id for one in world.instances.values() if one.state is not State.EXITED]
        running += [one.id for one in world.components.values() if one.state is not State.EXITED]
        if running:
            raise ActionFailed(action.address, "remove", f"{', '.join(sorted(running))} still runs")
        world.instances.clear()
        world.components.clear()
        world.members.clear()

    def _reach(self, host: str) -> None:
        if host in self._world.faults.unreachable or self._world.inventory.host(host) is None:
            raise Unreachable(f"Host {host} does not answer.")

    @contextmanager
    def _looked(self) -> Iterator[None]:
        with self._guard:
            if self._file is not None and self._file.exists():
                self._load()
            yield

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """The world, loaded before and saved after, also when the action failed half way."""
        with self._guard:
            if self._file is None:
                yield
                return
            lock = self._file.with_name(f"{self._file.name}.lock")
            with locked(lock):
                if self._file.exists():
                    self._load()
                try:
                    yield
                finally:
                    self._save()

    def _load(self) -> None:
        if self._file is not None:
            self._world = World.from_plain(json.loads(self._file.read_text()))

    def _save(self) -> None:
        if self._file is not None:
            text = json.dumps(self._world.to_plain(), indent=1) + "\n"
            replace_file(self._file, text.encode())


def _seen(one: FakeInstance, *, host_lost: bool) -> Instance:
    return Instance(
        id=one.id,
        address=one.address,
        digest=one.digest,
        fields=one.fields,
        placement=one.placement,
        state=State.UNKNOWN if host_lost else one.state,
        endpoint=one.endpoint,
        exit_reason=one.exit_reason,
        tampered=tuple(one.tampered),
    )


def _seen_component(one: FakeComponent) -> Component:
    return Component(
        id=one.id,
        address=one.address,
        digest=one.digest,
        fields=one.fields,
        state=one.state,
        endpoint=one.endpoint,
        exit_reason=one.exit_reason,
    )


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_killed() -> None:
    raise Killed
