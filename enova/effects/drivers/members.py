"""Who is behind the gateway: join, drain, leave, whatever the target.

In: membership actions. Out: membership files that outlive every Envoy, and the certainty that the
running one has taken what was written. Without a running gateway the file is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from enova.base.errors import ActionFailed, Unreachable
from enova.effects import gateway
from enova.effects.drivers.folder import TAIL_LINES, Meta, locked
from enova.effects.drivers.ground import Ground
from enova.effects.gateway_admin import EndpointStats, GatewayAdmin
from enova.stack.actions import Action
from enova.stack.observed import Member
from enova.stack.render.envoy_members import Member as RenderedMember

Progress = Callable[[str], None]

APPLIED_S = 15.0
"""How long Envoy may take to read a membership file and to check a new member's health."""

_LOOK_S = 0.05


@dataclass(frozen=True)
class Door:
    """One running gateway process: what it was told, and how to ask it."""

    meta: Meta
    admin: GatewayAdmin
    runs: Callable[[], bool]
    lines: Callable[[int], list[str]]


class Members:
    """The members of every service of one stack. ``doors``: running gateways, the newest first."""

    def __init__(self, ground: Ground, doors: Callable[[], Sequence[Door]]) -> None:
        self._ground = ground
        self._doors = doors

    def join(self, action: Action, service: str, target: Meta, weight: int) -> None:
        """Make an instance a serving member, and wait until Envoy sends it requests."""
        member = RenderedMember(target.id, target.host, target.port, weight=weight)

        def with_it(members: dict[str, RenderedMember]) -> None:
            members[member.instance_id] = member

        self._change(service, with_it)

        def taken(stats: Mapping[str, EndpointStats]) -> bool:
            seen = stats.get(target.id)
            if seen is None:
                return False
            if not member.serves:
                return seen.draining
            return seen.healthy and not seen.draining and seen.weight == weight

        self._await(action, service, "join", taken)

    def drain(
        self, action: Action, service: str, instance: str, timeout_s: float, progress: Progress
    ) -> None:
        """Send nothing new, and wait until its open requests ended or the time is over."""

        def draining(members: dict[str, RenderedMember]) -> None:
            if instance in members:
                members[instance] = replace(members[instance], state="draining")

        if instance not in self._change(service, draining):
            return

        def taken(stats: Mapping[str, EndpointStats]) -> bool:
            return instance not in stats or stats[instance].draining

        self._await(action, service, "drain", taken)
        clock = self._ground.clock
        end = clock.monotonic() + timeout_s
        for door in self._doors():
            try:
                left = max(0.0, end - clock.monotonic())
                if not door.admin.wait_idle(service, instance, deadline_s=left):
                    progress(f"requests still open after {timeout_s:.0f} s")
            except Unreachable as error:
                if door.runs():
                    raise
                progress(f"the gateway ended meanwhile: {error}")

    def leave(self, action: Action, service: str, instance: str) -> None:
        """Take an instance out of the membership, and wait until Envoy has forgotten it."""

        def without_it(members: dict[str, RenderedMember]) -> None:
            members.pop(instance, None)

        self._change(service, without_it)
        self._await(action, service, "leave", lambda stats: instance not in stats)

    def read(self) -> dict[str, tuple[Member, ...]]:
        """Members by service as the files say, services without any left out."""
        found = {}
        for path in sorted(self._ground.members.glob("*.json")):
            members = tuple(
                Member(
                    instance=member.instance_id,
                    endpoint=f"{member.host}:{member.port}",
                    weight=member.weight,
                    draining=not member.serves,
                )
                for member in self._read(path.stem).values()
            )
            if members:
                found[path.stem] = members
        return found

    def _read(self, service: str) -> dict[str, RenderedMember]:
        """Members by instance id. A file that is not ours to read counts as empty: it is
        replaced by the next write, and the plan sees that nobody is a member."""
        try:
            members = gateway.read_members(self._ground.members, service)
        except (OSError, ValueError):
            return {}
        return {member.instance_id: member for member in members}

    def _change(
        self, service: str, change: Callable[[dict[str, RenderedMember]], None]
    ) -> dict[str, RenderedMember]:
        """Read, change, write one membership file. Returns the members after it."""
        self._ground.prepare(self._ground.members)
        with locked(self._ground.members):
            before = self._read(service)
            after = dict(before)
            change(after)
            written = gateway.members_path(self._ground.members, service).exists()
            if after != before or not written:
                gateway.write_members(self._ground.members, service, after.values())
        return after

    def _await(
        self,
        action: Action,
        service: str,
        step: str,
        taken: Callable[[Mapping[str, EndpointStats]], bool],
    ) -> None:
        """Wait until the newest gateway that knows the service has taken the file.

        An older one only finishes the requests it has. Without a gateway the file is enough.
        """
        clock = self._ground.clock
        end = clock.monotonic() + APPLIED_S
        knowing = [
            door
            for door in self._doors()
            if any(path == f"routes.{service}" for path, _ in door.meta.fields)
        ]
        for door in knowing[:1]:
            while True:
                try:
                    stats = {e.instance_id: e for e in door.admin.endpoint_stats(service)}
                except Unreachable:
                    if not door.runs():
                        break
                    stats = None
                if stats is not None and taken(stats):
                    break
                if clock.monotonic() >= end:
                    raise ActionFailed(
                        action.address,
                        step,
                        f"{door.meta.id} has not taken the membership of {service} "
                        f"within {APPLIED_S:.0f} s",
                        door.lines(TAIL_LINES),
                    )
                clock.sleep(_LOOK_S)
