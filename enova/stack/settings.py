"""What a configuration changes without touching anything that runs: bounds, goals, traffic, pool.

In: the configuration asked for and the one last applied. Out: a ``SettingsDifference`` for each
service, and one for the pool, that differ. Nothing is performed for them: the record takes them
over, and the reconciler goes by the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from enova.base.digest import plain
from enova.capacity.sizing.choice import Choice
from enova.spec.model import Service, Spec
from enova.stack.compare import FieldChange, field_changes
from enova.stack.owners import Owner, Reason
from enova.stack.resources import Fields, Scalar

POOL = "pool"
"""Address of a difference in the pool."""

_SECTIONS = {"traffic", "goals", "scale", "rollout", "priority", "protect"}
"""Of a service; what else it has shapes the replica and is compared with what runs."""

_EXPECTED = ("rate_per_replica", "replicas", "usd_per_hour")
"""What a choice promises, as far as it is shown."""


@dataclass(frozen=True)
class SettingsDifference:
    """Settings of one service or the pool that differ, and who moved them."""

    address: str
    reason: Reason
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True)
class Configured:
    """One side: the spec and its choices."""

    spec: Spec
    choices: Mapping[str, Choice]


def compare_settings(
    before: Configured, after: Configured, *, same_template: frozenset[str]
) -> tuple[SettingsDifference, ...]:
    """Differences of services that both sides have, and of the pool, sorted by address.

    ``same_template``: services whose replicas stay as they are, so that nothing else would show
    that their choice moved.
    """
    found = []
    for name in sorted(before.spec.services.keys() & after.spec.services.keys()):
        fields = field_changes(
            _settings(before.spec.services[name]), _settings(after.spec.services[name])
        )
        old, new = plain(before.choices[name]), plain(after.choices[name])
        moved = name in same_template and old != new
        promised = _promised(old, new) if moved else ()
        if fields or moved:
            reason = Reason.SPEC_CHANGED if fields else Reason.CHOICE_CHANGED
            found.append(SettingsDifference(name, reason, (*fields, *promised)))
    pools = (_flat(POOL, side.spec.pool.model_dump()) for side in (before, after))
    old_pool, new_pool = (tuple(sorted(pairs)) for pairs in pools)
    if fields := field_changes(old_pool, new_pool):
        found.append(SettingsDifference(POOL, Reason.SPEC_CHANGED, fields))
    return tuple(found)


def _settings(service: Service) -> Fields:
    pairs = [
        pair
        for section, value in service.model_dump(include=_SECTIONS).items()
        for pair in _flat(section, value)
    ]
    return tuple(sorted([*pairs, ("engine.start_timeout", service.engine.start_timeout)]))


def _promised(before: object, after: object) -> tuple[FieldChange, ...]:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return ()
    return tuple(
        FieldChange(name, before.get(name), after.get(name), Owner.CHOICE)
        for name in _EXPECTED
        if before.get(name) != after.get(name)
    )


def _flat(path: str, value: object) -> Iterator[tuple[str, Scalar]]:
    """Path and value pairs below ``path``, without what is not set."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _flat(f"{path}.{index}", inner)
    elif value is not None:
        yield path, value if isinstance(value, (str, int, float, bool)) else str(value)
