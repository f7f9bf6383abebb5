"""Who owns each field of each resource, and which reason follows from a difference in it.

One table instead of conditions across the code: the reason for a change is derived from the owner
of the fields that differ and from which side moved (asked for, recorded, live).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Owner(StrEnum):
    """Who may change a field."""

    SPEC = "spec"
    CHOICE = "choice"
    SCALER = "scaler"
    ENGINE = "engine"


class Reason(StrEnum):
    """Why something will change. Closed: a property test fails until every view knows each."""

    NEW = "new"
    SPEC_CHANGED = "spec changed"
    CHOICE_CHANGED = "choice changed"
    ENGINE_UPGRADED = "engine upgraded"
    DRIFTED = "drifted"
    SCALED = "scaled"
    MISSING = "missing"
    FAILED_BEFORE = "failed before"
    UNHEALTHY = "unhealthy"
    HOST_LOST = "host lost"
    INTERRUPTED = "interrupted before"
    ORPHANED = "orphaned"
    REMOVED = "removed from the spec"
    DESTROYED = "destroyed"
    REQUESTED = "on request"


CHOSEN_ARGS = frozenset(
    {
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "data-parallel-size",
        "enable-expert-parallel",
        "quantization",
        "kv-cache-dtype",
        "kv-cache-memory-bytes",
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "gpu-memory-utilization",
        "step-law",
        "kv-blocks",
        "block-size",
    }
)
"""Engine arguments sizing computes unless the spec pins them."""

ADOPTED_ARGS = frozenset({"custom-histogram-buckets", "otlp-traces-endpoint"})
"""Engine arguments that follow goals and monitoring and say only how the engine is measured. Unless
the spec pins them they are not part of a replica's identity: none is replaced for them, a new one
has them."""

IMAGES = frozenset({"engine.image", "image"})
"""Chosen unless the spec names it: by the engine's version, by this enova, by the lock's digest."""

_BY_PREFIX: tuple[tuple[str, Owner], ...] = (
    ("engine.version", Owner.CHOICE),
    ("needs.", Owner.CHOICE),
    ("replicas", Owner.SCALER),
    ("weight", Owner.CHOICE),
    ("endpoint", Owner.ENGINE),
)


_CHOSEN_OF_WATCHED = (
    ".at_most_s",
    ".engine",
    ".engine_version",
    ".predicted_at_rate",
    ".predicted_s",
    ".usd_per_replica_hour",
)
"""Ends of paths below ``watched.``: what a choice says of the service, or predicts of it."""


def owner(path: str, pinned: frozenset[str] = frozenset()) -> Owner:
    """The owner of a field by its path, for example ``args.max-num-seqs``.

    ``pinned``: arguments and images the spec states itself.
    """
    if path in IMAGES:
        return Owner.SPEC if path in pinned else Owner.CHOICE
    if path.startswith("args.") and path.removeprefix("args.") in CHOSEN_ARGS - pinned:
        return Owner.CHOICE
    if path.startswith("watched.") and path.endswith(_CHOSEN_OF_WATCHED):
        return Owner.CHOICE
    for prefix, who in _BY_PREFIX:
        if path.startswith(prefix):
            return who
    return Owner.SPEC


def reason_for(
    owners: Mapping[str, Owner], *, asked_moved: bool, choice_moved: bool, live_moved: bool
) -> Reason:
    """The reason for a difference in the paths of ``owners``.

    ``asked_moved``: what is asked for differs from what was last applied. ``choice_moved``: the
    locked choice differs from the one last applied. ``live_moved``: what runs differs from it.
    """
    if not asked_moved and live_moved:
        return Reason.DRIFTED
    if "engine.version" in owners:
        return Reason.ENGINE_UPGRADED
    if choice_moved and set(owners.values()) <= {Owner.CHOICE}:
        return Reason.CHOICE_CHANGED
    return Reason.SPEC_CHANGED if asked_moved or not live_moved else Reason.DRIFTED
