"""Why nothing fits, and the smallest changes that would: the words of ``Infeasible``.

Each way out is checked before it is offered: memory by the ledger and the steady state, goals and
counts by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from enova.base.errors import Infeasible
from enova.base.units import format_duration, format_rate
from enova.capacity.catalog import gpus, prices
from enova.capacity.catalog.shape import ModelShape, with_quantization
from enova.capacity.perf.estimate import Configuration, Estimator
from enova.capacity.perf.memory import ledger
from enova.capacity.sim.report import Goal
from enova.capacity.sizing.candidates import (
    TENSOR_PARALLEL,
    Candidate,
    Rejection,
    gpu_configuration,
)
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.limits import Capacity, capacity, first_missed, quick_rate
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
    goals: Sequence[Goal],
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
            ways = _more_replicas(demand, serving)
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
    demand: Demand, closest: Sequence[Rejection], goals: Sequence[Goal], estimator: Estimator
) -> Iterator[str]:
    tried = [r.candidate for r in closest if r.candidate is not None]
    shape = with_quantization(demand.shape, demand.quantization)

    def works(config: Configuration) -> bool:
        return _fits(config) and quick_rate(estimator, config, demand.workload, goals) > 0

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
    goals: Sequence[Goal],
    estimator: Estimator,
) -> Iterator[str]:
    """The nearest goals, and devices that would meet the stated ones without load."""
    candidate, nearest = min(capacities, key=lambda pair: _excess(pair[1], goals))
    for slack in EASING:
        eased = [_eased(goal, nearest, slack) for goal in goals]
        found = capacity(estimator, candidate.config, demand.workload, eased)
        if found.rate_per_s <= 0:
            continue
        carries = _carries(demand, candidate, found)
        if not carries and slack != EASING[-1]:
            continue
        changes = [
            f"{new.metric} p{new.percentile} to {format_duration(new.limit_s)}"
            for old, new in zip(goals, eased, strict=True)
            if new != old
        ]
        held = _most_replicas(demand, candidate) * found.rate_per_s * TARGET_UTILISATION
        lower = ""
        if held < demand.workload.peak_per_s:
            lower = f" and lower traffic.peak to {format_rate(float(f'{held:.2g}'))}"
        yield f"relax {' and '.join(changes)}{lower} (fits {candidate.label})"
        break
    if all(c.cores for c, _ in capacities):
        yield "state GPUs in pool.hosts, and run the engine `emulator` where there are none"
    shape = with_quantization(demand.shape, demand.quantization)
    faster = []
    seen = {(c.config.device.name, c.config.layout.tensor_parallel) for c, _ in capacities}
    for name, facts in gpus.all_gpus().items():
        for ranks in TENSOR_PARALLEL[:4]:
            if shape.heads % ranks or (name, ranks) in seen:
                continue
            config = gpu_configuration(demand, shape, facts, ranks)
            if not _fits(config):
                continue
            point = estimator.simulate(config, demand.workload, 1e-3, count=60)
            if first_missed(point, goals) is None:
                price = prices.price_of(name, demand.prices)
                faster.append(((price.usd_per_hour if price else math.inf) * ranks, name, ranks))
                break
    for _, name, ranks in sorted(faster)[:2]:
        yield f"use {name} with tensor parallel {ranks}"


def _eased(goal: Goal, nearest: Capacity, slack: float) -> Goal:
    """The goal, if it is missed without load, as far above what is reached there."""
    high = nearest.at.figure(goal.metric, goal.percentile).high
    if high <= goal.limit_s:
        return goal
    return replace(goal, limit_s=float(f"{high * slack:.2g}"))


def _carries(demand: Demand, candidate: Candidate, found: Capacity) -> bool:
    need = replicas_for(demand.workload.peak_per_s, found.rate_per_s, least=demand.least)
    return need <= _most_replicas(demand, candidate)


def _excess(capacity: Capacity, goals: Sequence[Goal]) -> float:
    return max(capacity.at.figure(g.metric, g.percentile).high / g.limit_s for g in goals)


def _serving(
    demand: Demand,
    capacities: Sequence[tuple[Candidate, Capacity]],
    closest: Sequence[Rejection],
    goals: Sequence[Goal],
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
