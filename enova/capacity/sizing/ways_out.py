"""Why nothing fits, and the smallest changes that would: the words of ``Infeasible``.

Each way out is checked before it is offered: memory by the ledger and the steady state, goals and
counts by simulation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from enova.base.errors import Infeasible
from enova.base.units import format_duration, format_rate, format_share
from enova.capacity.catalog import gpus, prices
from enova.capacity.catalog.shape import ModelShape, with_quantization
from enova.capacity.perf.estimate import Configuration, Estimator
from enova.capacity.perf.memory import ledger
from enova.capacity.sim.report import Goal, Objectives, percentile_of
from enova.capacity.sizing.candidates import (
    TENSOR_PARALLEL,
    Candidate,
    Rejection,
    gpu_configuration,
)
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.limits import (
    IDLE_RATE,
    Capacity,
    attained,
    attains,
    capacity,
    load_point,
    quick_rate,
)
from enova.capacity.sizing.score import replicas_for
from enova.policy.scaling import TARGET_UTILISATION

CLOSENESS = ("device", "memory", "goal", "replicas", "budget")
"""Kinds of rejection from the one that fails first to the one that nearly succeeded."""

MOST_WAYS = 4

EASING = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""How far above the unloaded latency a goal is tried, until the peak fits as well."""


def nothing_fits(
    demand: Demand,
    rejections: Sequence[Rejection],
    capacities: Sequence[tuple[Candidate, Capacity]],
    goals: Objectives,
    estimator: Estimator,
) -> Infeasible:
    """The exception to raise: the binding limit of the closest miss and what would lift it."""
    if not rejections:
        return Infeasible(
            demand.service,
            "The pool has no device this service could use.",
            ["add a host with GPUs to pool.hosts, or run the engine `emulator` to rehearse"],
        )
    kind = max((r.kind for r in rejections), key=CLOSENESS.index)
    closest = [r for r in rejections if r.kind == kind]
    binding = "; ".join(f"{r.label}: {r.reason}" for r in closest[:3])
    ways: Iterator[str] | Sequence[str] = ()
    if kind == "memory":
        ways = _more_memory(demand, closest, goals, estimator)
    elif kind == "goal":
        ways = _easier_goal(demand, capacities, goals, estimator)
    elif kind == "replicas":
        serving = _serving(demand, capacities, closest, goals, estimator)
        if serving:
            ways = itertools.chain(
                _more_replicas(demand, serving), _lower_share(demand, serving, goals, estimator)
            )
        elif capacities:
            ways = _easier_goal(demand, capacities, goals, estimator)
    elif kind == "device":
        ways = ("choose a tensor-parallel-size that divides the heads and fits one host",)
    else:
        ways = ("raise pool.budget, or lower traffic.peak",)
    return Infeasible(demand.service, _sentence(kind, binding), list(ways)[:MOST_WAYS])


def _sentence(kind: str, binding: str) -> str:
    names = {
        "device": "No device of the pool can hold a replica",
        "memory": "Memory binds",
        "goal": "The latency goals bind",
        "replicas": "The number of replicas binds",
        "budget": "The budget binds",
    }
    return f"{names[kind]}: {binding}."


def _more_memory(
    demand: Demand, closest: Sequence[Rejection], goals: Objectives, estimator: Estimator
) -> Iterator[str]:
    tried = [r.candidate for r in closest if r.candidate is not None]
    shape = with_quantization(demand.shape, demand.quantization)

    def works(config: Configuration) -> bool:
        return _fits(config) and quick_rate(estimator, config, demand.workload, goals.goals) > 0

    for candidate in tried:
        length = _longest_that_fits(candidate.config)
        if length and length >= _needed(demand):
            yield f"set model.max_model_len to {length} or less (fits {candidate.label})"
            break
    if shape.quantization is None:
        small = with_quantization(shape, "fp8")
        for candidate in tried:
            if works(replace(candidate.config, shape=small)):
                yield f"set model.quantization to fp8 (fits {candidate.label})"
                break
    names = sorted({c.config.device.name for c in tried if c.config.device.kind == "gpu"})
    for name in names:
        for config in _wider(demand, shape, name):
            if works(config):
                yield f"give one host {config.layout.tensor_parallel} GPUs of type {name}"
                break
    fitting = []
    for name, facts in gpus.all_gpus().items():
        if name not in names and works(gpu_configuration(demand, shape, facts, 1)):
            price = prices.price_of(name, demand.prices)
            fitting.append((price.usd_per_hour if price else math.inf, name))
    for _, name in sorted(fitting)[:2]:
        yield f"use a GPU of type {name}"


def _needed(demand: Demand) -> int:
    """The shortest max_model_len that nearly all of the stated traffic fits."""
    work = demand.workload
    return int(work.input.quantile(0.99) + work.output.quantile(0.99))


def _wider(demand: Demand, shape: ModelShape, device: str) -> Iterator[Configuration]:
    facts = gpus.find(device)
    for ranks in TENSOR_PARALLEL if facts else ():
        if facts and shape.heads % ranks == 0:
            yield gpu_configuration(demand, shape, facts, ranks)


def _longest_that_fits(config: Configuration) -> int | None:
    """The longest max_model_len, in whole 1024s, that the cache holds; None when none does."""
    length = config.layout.max_model_len
    while length > 1024:
        length = (length // 2 + 1023) // 1024 * 1024
        if _fits(replace(config, layout=replace(config.layout, max_model_len=length))):
            memory = ledger(
                config.shape, config.device, replace(config.layout, max_model_len=length)
            )
            return max(length, min(memory.kv_tokens, config.layout.max_model_len) // 1024 * 1024)
        if length == 1024:
            break
    return None


def _fits(config: Configuration) -> bool:
    return ledger(config.shape, config.device, config.layout).fits


def _easier_goal(
    demand: Demand,
    capacities: Sequence[tuple[Candidate, Capacity]],
    goals: Objectives,
    estimator: Estimator,
) -> Iterator[str]:
    """The nearest goals, and devices that would meet the stated ones without load."""
    candidate, nearest = min(capacities, key=lambda pair: _excess(pair[1], goals))
    for slack in EASING:
        limits = tuple(_eased(goal, nearest, goals, slack) for goal in goals.goals)
        eased = replace(goals, goals=limits)
        found = capacity(estimator, candidate.config, demand.workload, eased)
        if found.rate_per_s <= 0:
            continue
        carries = _carries(demand, candidate, found)
        if not carries and slack != EASING[-1]:
            continue
        changes = [
            f"{new.metric} p{new.percentile} to {format_duration(new.limit_s)}"
            for old, new in zip(goals.goals, limits, strict=True)
            if new != old
        ]
        if not changes:
            break
        held = _most_replicas(demand, candidate) * found.rate_per_s * TARGET_UTILISATION
        lower = ""
        if held < demand.workload.peak_per_s:
            lower = f" and lower traffic.peak to {format_rate(float(f'{held:.2g}'))}"
        yield f"relax {' and '.join(changes)}{lower} (fits {candidate.label})"
        break
    yield from _lower_share(demand, [(candidate, nearest)], goals, estimator)
    if all(c.cores for c, _ in capacities):
        yield "state GPUs in pool.hosts, and run the engine `emulator` where there are none"
    seen = {(c.config.device.name, c.config.layout.tensor_parallel) for c, _ in capacities}
    yield from itertools.islice(_faster(demand, seen, goals, estimator), 2)


def _faster(
    demand: Demand, seen: Collection[tuple[str, int]], goals: Objectives, estimator: Estimator
) -> Iterator[str]:
    """Devices that hold the goals without load, the cheapest first, each as few as will do."""
    shape = with_quantization(demand.shape, demand.quantization)
    options = []
    for name in gpus.all_gpus():
        price = prices.price_of(name, demand.prices)
        for ranks in TENSOR_PARALLEL[:4]:
            if shape.heads % ranks == 0 and (name, ranks) not in seen:
                usd = price.usd_per_hour * ranks if price else math.inf
                options.append((usd, name, ranks))
    offered = set()
    for _, name, ranks in sorted(options):
        facts = gpus.find(name)
        if facts is None or name in offered:
            continue
        config = gpu_configuration(demand, shape, facts, ranks)
        if _fits(config) and _quick_enough(demand, config, goals, estimator):
            offered.add(name)
            yield f"use {name} with tensor parallel {ranks}"


def _quick_enough(
    demand: Demand, config: Configuration, goals: Objectives, estimator: Estimator
) -> bool:
    """Whether a configuration holds the goals without load; few requests rule most others out."""
    few = estimator.simulate(config, demand.workload, IDLE_RATE, count=60)
    if not few.meets(goals.goals):
        return False
    if goals.attainment is None:
        return True
    return attains(load_point(estimator, config, demand.workload, IDLE_RATE, goals), goals)


def _eased(goal: Goal, nearest: Capacity, asked: Objectives, slack: float) -> Goal:
    """The goal, if it is missed without load, as far above what is reached there.

    With a share of requests asked for, the widest limit of a metric has to let that share pass,
    and is eased as well when only little is left: all of them together let fewer pass than each.
    """
    point = nearest.at
    high = point.figure(goal.metric, goal.percentile).high
    widest = all(g.limit_s <= goal.limit_s for g in asked.goals if g.metric == goal.metric)
    share = asked.attainment if widest else None
    if share is not None:
        values = [point.report.value(o, goal.metric) for o in point.report.outcomes]
        needed = percentile_of(values, 100 * share) * point.doubt.of(goal.metric)
        high = max(high, needed)
    eased = float(f"{high * slack:.2g}")
    if (high <= goal.limit_s and share is None) or eased <= goal.limit_s:
        return goal
    return replace(goal, limit_s=eased)


def _carries(demand: Demand, candidate: Candidate, found: Capacity) -> bool:
    if found.rate_per_s <= 0:
        return False
    need = replicas_for(demand.workload.peak_per_s, found.rate_per_s, least=demand.least)
    return need <= _most_replicas(demand, candidate)


def _excess(capacity: Capacity, goals: Objectives) -> float:
    """By what factor the worst goal is missed without load."""
    point = capacity.at
    worst = max(point.figure(g.metric, g.percentile).high / g.limit_s for g in goals.goals)
    if goals.attainment is None:
        return worst
    return max(worst, goals.attainment / max(attained(point, goals.goals).low, 1e-3))


def _lower_share(
    demand: Demand,
    serving: Sequence[tuple[Candidate, Capacity]],
    goals: Objectives,
    estimator: Estimator,
) -> Iterator[str]:
    """The share of requests that the replicas there may be would have within all goals."""
    if goals.attainment is None:
        return
    shares = []
    for candidate, _ in serving:
        most = _most_replicas(demand, candidate)
        if not most:
            continue
        # Above what each has to carry: the search for the largest rate ends a few percent below it.
        rate = 1.1 * demand.workload.peak_per_s / (most * TARGET_UTILISATION)
        point = load_point(estimator, candidate.config, demand.workload, rate, goals)
        share = math.floor(1000 * attained(point, goals.goals).low) / 1000
        if not 0.5 <= share < goals.attainment:
            continue
        lower = replace(goals, attainment=share)
        found = capacity(estimator, candidate.config, demand.workload, lower)
        if _carries(demand, candidate, found):
            shares.append((share, candidate.label))
    if shares:
        share, label = max(shares)
        yield f"lower goals.attainment to {format_share(share)} (fits {label})"


def _serving(
    demand: Demand,
    capacities: Sequence[tuple[Candidate, Capacity]],
    closest: Sequence[Rejection],
    goals: Objectives,
    estimator: Estimator,
) -> list[tuple[Candidate, Capacity]]:
    """Candidates that meet the goals at some rate; those ruled out before that was asked too."""
    known = [(c, cap) for c, cap in capacities if cap.rate_per_s > 0]
    if known:
        return known
    untried = [r.candidate for r in closest if r.candidate is not None]
    tried = [(c, capacity(estimator, c.config, demand.workload, goals)) for c in untried]
    return [(c, cap) for c, cap in tried if cap.rate_per_s > 0]


def _more_replicas(demand: Demand, serving: Sequence[tuple[Candidate, Capacity]]) -> Iterator[str]:
    peak = demand.workload.peak_per_s

    def carried(pair: tuple[Candidate, Capacity]) -> float:
        return _most_replicas(demand, pair[0]) * pair[1].rate_per_s * TARGET_UTILISATION

    candidate, capacity = max(serving, key=carried)
    need = math.ceil(peak / (capacity.rate_per_s * TARGET_UTILISATION) - 1e-9)
    need = max(need, demand.least, 1)
    if demand.most is not None and need > demand.most:
        yield f"set scale.max to {need}"
    if need > candidate.slots:
        more = (need - candidate.slots) * max(1, candidate.devices)
        unit = "cores" if candidate.cores else candidate.device
        count = (need - candidate.slots) * candidate.cores if candidate.cores else more
        yield f"add {count} x {unit} to the pool ({need} replicas of {candidate.label})"
    held = carried((candidate, capacity))
    if 0 < held < peak:
        yield f"lower traffic.peak to {format_rate(float(f'{held:.3g}'))}"
    elif demand.least > candidate.slots > 0:
        yield f"set scale.min to {candidate.slots}"


def _most_replicas(demand: Demand, candidate: Candidate) -> int:
    most = candidate.slots if demand.most is None else min(demand.most, candidate.slots)
    return max(0, most)
