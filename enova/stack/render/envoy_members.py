"""Who serves: the membership file of one service, in the form of Envoy's endpoint discovery.

In: members as values. Out: the document that is written atomically into the watched directory
(``effects.gateway.write_members``), and the members again from such a document.

A member is ``serving`` (gets requests by weight) or ``draining`` (open requests finish, no new
ones come); weight 0 is the same as draining, since Envoy knows no weight 0. When every member
drains, the document also tells Envoy to refuse new requests outright: otherwise Envoy, seeing
no healthy endpoint at all, would fall back to the draining ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from enova.base.digest import digest

MemberState = Literal["serving", "draining"]
Document = dict[str, object]

_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
_NEVER_SPILL = 10_000
"""Overprovisioning in percent: a lower priority gets traffic only when all above are dead."""


@dataclass(frozen=True, order=True)
class Member:
    """One engine instance as the gateway sees it. ``priority`` 0 is used first."""

    instance_id: str
    host: str
    port: int
    weight: int = 100
    state: MemberState = "serving"
    priority: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1000:
            raise ValueError(f"{self.instance_id}: weight {self.weight} is not in 0..1000")
        if not 0 <= self.priority <= 7:
            raise ValueError(f"{self.instance_id}: priority {self.priority} is not in 0..7")

    @property
    def serves(self) -> bool:
        """Whether new requests may go there."""
        return self.state == "serving" and self.weight > 0


def render_members(service: str, members: Iterable[Member]) -> Document:
    """The membership document of ``service``: sorted, versioned by its content.

    Raises ValueError when two members share an instance id or an address.
    """
    ordered = sorted(members)
    for what in (
        [member.instance_id for member in ordered],
        [f"{member.host}:{member.port}" for member in ordered],
    ):
        twice = sorted({name for name in what if what.count(name) > 1})
        if twice:
            raise ValueError(f"{service}: listed twice: {', '.join(twice)}")
    lowest = max((member.priority for member in ordered), default=0)
    policy: Document = {"overprovisioning_factor": _NEVER_SPILL}
    if ordered and not any(member.serves for member in ordered):
        policy["drop_overloads"] = [
            {
                "category": "all_members_drain",
                "drop_percentage": {"numerator": 100, "denominator": "HUNDRED"},
            }
        ]
    assignment: Document = {
        "@type": _TYPE,
        "cluster_name": service,
        "endpoints": [
            {
                "priority": priority,
                "lb_endpoints": [_endpoint(m) for m in ordered if m.priority == priority],
            }
            for priority in range(lowest + 1)
        ],
        "policy": policy,
    }
    return {"version_info": digest(assignment), "resources": [assignment]}


def _endpoint(member: Member) -> Document:
    return {
        "endpoint": {
            "address": {
                "socket_address": {"address": member.host, "port_value": member.port},
            },
            "hostname": member.instance_id,
        },
        "health_status": "HEALTHY" if member.serves else "DRAINING",
        "load_balancing_weight": max(1, member.weight),
        "metadata": {
            "filter_metadata": {
                "enova": {"instance": member.instance_id, "weight": member.weight},
                "envoy.lb": {"hash_key": member.instance_id},
            }
        },
    }


def parse_members(document: Mapping[str, object]) -> tuple[Member, ...]:
    """The members of a document made by ``render_members``. Raises ValueError on another."""
    found: list[Member] = []
    try:
        (assignment,) = cast(list[Document], document["resources"])
        for group in cast(list[Document], assignment["endpoints"]):
            for endpoint in cast(list[Document], group["lb_endpoints"]):
                found.append(_member(endpoint, cast(int, group["priority"])))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a membership document: {error!r}") from error
    return tuple(sorted(found))


def _member(endpoint: Document, priority: int) -> Member:
    inner = cast(dict[str, Document], endpoint["endpoint"])
    socket = cast(Document, inner["address"]["socket_address"])
    metadata = cast(dict[str, dict[str, Document]], endpoint["metadata"])
    own = metadata["filter_metadata"]["enova"]
    weight = cast(int, own["weight"])
    healthy = endpoint["health_status"] == "HEALTHY"
    return Member(
        instance_id=str(own["instance"]),
        host=str(socket["address"]),
        port=cast(int, socket["port_value"]),
        weight=weight,
        state="serving" if healthy or weight == 0 else "draining",
        priority=priority,
    )
