"""The choice of each service: from ``enova.lock`` where it answers, otherwise from sizing.

In: a spec as read and the inventory. Out: choices, the explanation to show, notes. Services are
sized in order of priority, each on what the ones before left of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from enova.base.digest import digest, plain
from enova.base.errors import Refused, SpecError
from enova.base.problems import locate
from enova.base.source import Path as SpecPath
from enova.capacity.catalog import models
from enova.capacity.catalog.config import read_config as read_shape
from enova.capacity.catalog.shape import ModelShape
from enova.capacity.inventory import Claim, Inventory
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.explain import Recommendation
from enova.capacity.sizing.from_spec import demand_for, demand_key
from enova.capacity.sizing.recommend import recommend
from enova.effects.sources.models import read_config
from enova.effects.sources.traces import read_lengths
from enova.spec.lock import DEFAULT_ENV, FILE_NAME, Lock, answers, images_of, parse_lock
from enova.workflows.loading import Read

__all__ = ["Chosen", "choose", "lock_digest_of", "read_lock"]


@dataclass(frozen=True)
class Chosen:
    """The choice of each service. ``sized`` are those the lock did not answer."""

    choices: Mapping[str, Choice]
    demands: Mapping[str, str]
    """Digest of each service's demand, the key under which the lock holds its choice."""
    explained: tuple[Mapping[str, object], ...]
    sized: tuple[str, ...]
    notes: tuple[str, ...]
    lock_digest: str


def lock_path(spec: Read) -> Path | None:
    """Where the lock of a spec lies; None for a spec from standard input."""
    return None if spec.from_stdin else spec.folder / FILE_NAME


def read_lock(spec: Read) -> Lock:
    """The lock beside a spec, an empty one when there is none. Raises SpecError when damaged."""
    path = lock_path(spec)
    if path is None or not path.exists():
        return Lock()
    return parse_lock(path.read_text(encoding="utf-8"), file=str(path))


def lock_digest_of(spec: Read) -> str:
    """Digest of what the lock says about this spec's stack in its environment."""
    lock = read_lock(spec)
    mine = {
        "/".join(key): plain(entry)
        for key, entry in lock.entries.items()
        if key[:2] == (spec.spec.name, spec.env or DEFAULT_ENV)
    }
    images = images_of(lock, spec.spec.name, env=spec.env or None)
    return digest([mine, images] if images else mine)


def choose(spec: Read, inventory: Inventory, *, upgrade: bool, locked: bool) -> Chosen:
    """Choices for every service.

    ``upgrade`` sizes anew what the lock answers; ``locked`` refuses to size anything. Raises
    Infeasible, Refused, SpecError.
    """
    lock = Lock() if upgrade else read_lock(spec)
    choices: dict[str, Choice] = {}
    demands: dict[str, str] = {}
    explained: dict[str, Mapping[str, object]] = {}
    sized: list[str] = []
    left = inventory
    order = sorted(spec.spec.services, key=lambda n: (-spec.spec.services[n].priority, n))
    for name in order:
        demand = _demand(spec, name)
        demands[name] = demand_key(demand)
        entry = answers(
            lock, spec.spec.name, env=spec.env or None, service=name, demand=demands[name]
        )
        if entry is not None:
            choices[name] = Choice.from_plain(entry.choice)
            explained[name] = {"service": name, "from": FILE_NAME, "choice": entry.choice}
        elif locked:
            raise Refused(
                f"{FILE_NAME} does not answer for {name}. Run: enova lock {spec.files[0]}"
            )
        else:
            found = recommend(demand, left, budget_usd_per_hour=_budget_left(spec, choices))
            choices[name] = found.choice
            explained[name] = _explained(name, found)
            sized.append(name)
        left = _claim(left, name, choices[name])
    notes = []
    if sized and not upgrade and not spec.from_stdin:
        notes.append(f"{FILE_NAME} has no answer for {', '.join(sized)}; apply writes it")
    return Chosen(
        choices=dict(sorted(choices.items())),
        demands=dict(sorted(demands.items())),
        explained=tuple(explained[name] for name in sorted(explained)),
        sized=tuple(sized),
        notes=tuple(notes),
        lock_digest=lock_digest_of(spec),
    )


def _demand(spec: Read, name: str) -> Demand:
    """The demand of one service. Raises SpecError, with positions, and Refused."""
    service = spec.spec.services[name]
    trace = service.traffic.trace
    try:
        return demand_for(
            name,
            service,
            shape=_shape(spec, name),
            prices=spec.spec.pool.prices,
            lengths=None if trace is None else read_lengths(trace),
        )
    except SpecError as error:
        raise SpecError(locate(error.problems, spec.loaded.sources)) from error


def _shape(spec: Read, name: str) -> ModelShape:
    """The model's shape: from its own config.json, otherwise from the catalog."""
    model = spec.spec.services[name].model.id
    where: SpecPath = ("services", name, "model")
    config = read_config(model)
    if config is not None:
        try:
            return read_shape(config)
        except ValueError as error:
            raise Refused(f"{model}/config.json: {error}") from error
    shape = models.find(model)
    if shape is None:
        message, hint = models.unknown(model)
        raise Refused(f"{'.'.join(map(str, where))}: {message}. {hint}")
    return shape


def _budget_left(spec: Read, chosen: Mapping[str, Choice]) -> float | None:
    budget = spec.spec.pool.budget
    if budget is None:
        return None
    return budget - sum(choice.usd_per_hour or 0.0 for choice in chosen.values())


def _claim(inventory: Inventory, service: str, choice: Choice) -> Inventory:
    """The inventory without the devices that ``choice.replicas`` of a service take."""
    claims = list(inventory.claims)
    for number in range(choice.replicas):
        for host in inventory.hosts:
            taken = {i for c in claims if c.host == host.name for i in c.indices}
            free = [d.index for d in host.of_type(choice.device) if d.index not in taken]
            owner = f"{service}/replica/{number}"
            if choice.cores:
                claims.append(Claim(owner, host.name, (), choice.cores, choice.memory_bytes))
                break
            if len(free) >= choice.devices_per_replica:
                indices = tuple(free[: choice.devices_per_replica])
                claims.append(Claim(owner, host.name, indices))
                break
    return replace(inventory, claims=tuple(claims))


def _explained(service: str, found: Recommendation) -> Mapping[str, object]:
    data = plain(found)
    if not isinstance(data, dict):
        raise TypeError("a recommendation is a mapping")
    return {"service": service, "from": "sizing", **data}
