"""Histogram edges: where a goal's limit is no edge of the engine's buckets, nobody can count by it.

In: an engine's facts and latency goals. Out: the engine argument that makes each limit an edge,
and at which edge a limit is counted where there is no such argument, or no longer the right one.

A goal says what is wanted of what runs and changes nothing that runs. So the argument is not part
of a replica's identity (``owners.ADOPTED_ARGS``): a new limit is an edge in replicas started from
then on, and is counted at the next default edge above in the others.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from enova.capacity.catalog.engines import EngineFacts
from enova.capacity.sim.report import Goal

FLAG = "histogram_buckets"
"""The catalog's word for the argument."""


def arguments(facts: EngineFacts, goals: Iterable[Goal]) -> dict[str, str]:
    """The argument, by its flag: default edges and limits; nothing where neither is needed."""
    flag = facts.flags.get(FLAG)
    limits: dict[str, set[float]] = {}
    for goal in goals:
        family = facts.bucket_families.get(goal.metric)
        if family is not None and goal.limit_s not in facts.buckets[family]:
            limits.setdefault(family, set()).add(goal.limit_s)
    if flag is None or not limits:
        return {}
    edges = {key: sorted({*facts.buckets[key], *more}) for key, more in sorted(limits.items())}
    return {flag: json.dumps(edges, separators=(",", ":"))}


def stated(facts: EngineFacts, args: Mapping[str, object]) -> dict[str, tuple[float, ...]]:
    """Edges by bucket family as these engine arguments state them; {} when that is not readable."""
    text = args.get(facts.flags.get(FLAG, ""))
    try:
        data = json.loads(text) if isinstance(text, str) else None
        found = data if isinstance(data, dict) else {}
        return {str(key): tuple(map(float, edges)) for key, edges in found.items()}
    except (ValueError, TypeError):
        return {}  # the engine refuses it too, and says why


def counted_at(
    facts: EngineFacts, metric: str, limit_s: float, *, own: Mapping[str, tuple[float, ...]]
) -> float | None:
    """The first edge from ``limit_s`` on in every replica; None: beyond the last one.

    ``own``: edges the spec states itself for its engine, which are then the only ones.
    """
    family = facts.bucket_families.get(metric, "")
    edges = own.get(family) or facts.buckets.get(family, ())
    place = bisect_left(edges, limit_s)
    return edges[place] if place < len(edges) else None


def notes(service: str, facts: EngineFacts, goals: Iterable[Goal]) -> tuple[str, ...]:
    """What is counted inexactly, and how, for an engine that cannot be told its edges."""
    if FLAG in facts.flags:
        return ()
    found = []
    for goal in goals:
        edge = counted_at(facts, goal.metric, goal.limit_s, own={})
        if edge == goal.limit_s or goal.metric not in facts.metrics:
            continue
        at = f"at {edge:g} s" if edge is not None else "not at all"
        found.append(
            f"{service}: requests within {goal.metric} {goal.limit_s:g} s are counted {at}, "
            f"the next edge {facts.name} {facts.version} has and cannot be told otherwise"
        )
    return tuple(found)
