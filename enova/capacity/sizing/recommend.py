"""Sizing one service: the cheapest configuration that meets the goals, with the reasons.

In: a demand, the inventory, an estimator. Out: a ``Recommendation``, or ``Infeasible`` with the
binding limit and ways out. Candidates are ranked by the quick steady state; the best few are
simulated, and the interval, not the point, must meet the goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from enova.base.units import format_rate, format_share
from enova.capacity.catalog import engines
from enova.capacity.inventory import CPU, Inventory
from enova.capacity.perf.estimate import Doubt, Estimator, RooflineEstimator, Simulated
from enova.capacity.perf.point import Figure
from enova.capacity.sim.report import METRICS, Objectives
from enova.capacity.sizing.candidates import Candidate, Rejection, candidates
from enova.capacity.sizing.choice import Choice, Prediction
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.explain import Recommendation, Row, ordered
from enova.capacity.sizing.limits import (
    Capacity,
    attained,
    attains,
    capacity,
    effective_goals,
    holds,
    load_point,
    quick_rate,
    shortfall,
)
from enova.capacity.sizing.score import Cost, cost_of, replicas_for
from enova.capacity.sizing.ways_out import nothing_fits

FINALISTS = 6
"""Candidates that are simulated; the others keep their steady-state estimate."""

HOPELESS = 2
"""Candidates simulated for the reason's sake when the steady state already rules them out."""

SURELY_SHORT = 1e12
"""Added to the rank of what cannot serve the peak."""

SEQUENCE_STEPS = (8, 16, 32, 64, 128, 256, 512, 1024)
TIGHT_BUDGET = 2048
"""Token budget tried beside the default when a goal limits the gaps between tokens."""


@dataclass(frozen=True)
class _Scored:
    """A feasible candidate. ``peak`` is the load point of one replica at the service's peak."""

    candidate: Candidate
    capacity: Capacity
    cost: Cost
    peak: Simulated


def recommend(
    demand: Demand,
    inventory: Inventory,
    *,
    estimator: Estimator | None = None,
    budget_usd_per_hour: float | None = None,
) -> Recommendation:
    """The cheapest configuration that meets the goals at the peak.

    Raises Infeasible when there is none, ValueError when the demand contradicts itself
    (quantization that the checkpoint does not have, unknown engine).
    """
    model = estimator or RooflineEstimator()
    goals = effective_goals(demand.objectives)
    found: list[Candidate] = []
    rejections: list[Rejection] = []
    for item in candidates(demand, inventory):
        if isinstance(item, Rejection):
            rejections.append(item)
        else:
            found.append(item)
    scored: list[_Scored] = []
    capacities: list[tuple[Candidate, Capacity]] = []
    rest: list[tuple[Candidate, Cost]] = []
    for candidate, least_cost in _ranked(found, demand, goals, model):
        if scored and least_cost.rank > min(one.cost.rank for one in scored):
            rest.append((candidate, least_cost))
            continue
        if scored and len(capacities) >= FINALISTS:
            rest.append((candidate, least_cost))
            continue
        short = SURELY_SHORT <= least_cost.rank < 2 * SURELY_SHORT
        if short and len(capacities) >= HOPELESS:
            reason = _shortage(candidate, least_cost, demand)
            rejections.append(Rejection(candidate.label, "replicas", reason, candidate))
            continue
        best, result = _best_variant(candidate, demand, goals, model)
        capacities.append((best, result))
        verdict = _verdict(best, result, demand, budget_usd_per_hour)
        if isinstance(verdict, Rejection):
            rejections.append(verdict)
            continue
        share = demand.workload.peak_per_s / verdict.replicas
        peak = load_point(model, best.config, demand.workload, share, goals)
        if not attains(peak, goals):
            # The recommendation shows this very point, so it must not show less than was asked.
            reason = shortfall(peak, goals, when=f"at {format_rate(_rounded(share))} a replica")
            rejections.append(Rejection(best.label, "goal", reason, best))
            continue
        scored.append(_Scored(best, result, verdict, peak))
    if not scored:
        raise nothing_fits(demand, rejections, capacities, goals, model)
    # At equal cost smaller replicas win: they scale in finer steps and fail in smaller parts.
    best_one = min(scored, key=lambda s: (s.cost.rank, s.candidate.devices, s.candidate.label))
    chosen = _trimmed(best_one, demand, goals, model)
    rows = [_row(s if s is not best_one else chosen, chosen, demand, goals, model) for s in scored]
    rows += [_unsimulated(candidate, cost, chosen, demand) for candidate, cost in rest]
    rows += [_rejected(rejection) for rejection in rejections]
    return Recommendation(
        choice=_choice(chosen, demand, goals, model),
        rows=ordered(rows),
        ledger=model.memory(chosen.candidate.config).lines,
        numbers=_numbers(chosen.candidate, model.doubt(chosen.candidate.config)),
        not_predicted=_not_predicted(demand),
        sensitivity=_sensitivity(chosen, demand, goals, model),
    )


def _ranked(
    found: Sequence[Candidate], demand: Demand, goals: Objectives, model: Estimator
) -> list[tuple[Candidate, Cost]]:
    """Candidates with a lower bound of the service's cost, cheapest first.

    What surely does not fit into the pool goes last, but still gets its reason.
    """
    ranked = []
    for candidate in found:
        rate = quick_rate(model, candidate.config, demand.workload, goals.goals)
        replicas = replicas_for(demand.workload.peak_per_s, max(rate, 1e-3), least=demand.least)
        cost = cost_of(candidate, replicas, demand.prices)
        if rate <= 0:
            cost = replace(cost, rank=cost.rank + 2 * SURELY_SHORT)
        elif replicas > _most(candidate, demand):
            cost = replace(cost, rank=cost.rank + SURELY_SHORT)
        ranked.append((candidate, cost))
    return sorted(ranked, key=lambda pair: (pair[1].rank, pair[0].devices, pair[0].label))


def _best_variant(
    candidate: Candidate, demand: Demand, goals: Objectives, model: Estimator
) -> tuple[Candidate, Capacity]:
    """The candidate, with a tighter token budget when that serves more within the goals."""
    result = capacity(model, candidate.config, demand.workload, goals)
    config = candidate.config
    gaps = any(goal.metric in ("itl", "tpot") for goal in goals.goals)
    free = "max_num_batched_tokens" not in demand.pinned
    tight = max(TIGHT_BUDGET, config.layout.max_num_seqs)
    if not (gaps and free and tight < config.max_num_batched_tokens):
        return candidate, result
    if demand.workload.input.quantile(0.99) <= tight and result.rate_per_s > 0:
        return candidate, result
    other = replace(candidate, config=replace(config, max_num_batched_tokens=tight))
    tighter = capacity(model, other.config, demand.workload, goals)
    if tighter.rate_per_s > 1.05 * result.rate_per_s:
        return other, tighter
    return candidate, result


def _most(candidate: Candidate, demand: Demand) -> int:
    """Replicas that scale.max and the pool allow."""
    return candidate.slots if demand.most is None else min(demand.most, candidate.slots)


def _verdict(
    candidate: Candidate, result: Capacity, demand: Demand, budget: float | None
) -> Cost | Rejection:
    """The cost, or why this candidate cannot be chosen."""
    if result.missed:
        return Rejection(candidate.label, "goal", result.missed, candidate)
    peak = demand.workload.peak_per_s
    replicas = replicas_for(peak, result.rate_per_s, least=demand.least)
    need = f"{format_rate(peak)} need {replicas} replicas of {format_rate(result.rate_per_s)}"
    if result.by_attainment and demand.attainment is not None:
        need += f" (bound by goals.attainment {format_share(demand.attainment)})"
    if demand.most is not None and replicas > demand.most:
        reason = f"{need}, scale.max is {demand.most}"
        return Rejection(candidate.label, "replicas", reason, candidate)
    if replicas > candidate.slots:
        reason = f"{need}, the pool has room for {candidate.slots}"
        return Rejection(candidate.label, "replicas", reason, candidate)
    cost = cost_of(candidate, replicas, demand.prices)
    if budget is not None and cost.usd_per_hour is not None and cost.usd_per_hour > budget:
        reason = f"costs {cost.usd_per_hour:.2f} USD/h, {budget:.2f} are left in the budget"
        return Rejection(candidate.label, "budget", reason, candidate)
    return cost


def _trimmed(best: _Scored, demand: Demand, goals: Objectives, model: Estimator) -> _Scored:
    """The same with ``max_num_seqs`` no larger than its load needs: bursts stay bounded.

    Kept only when the goals still hold at the same rate.
    """
    if "max_num_seqs" in demand.pinned:
        return best
    config = best.candidate.config
    running = best.capacity.at.report.running
    need = 2 * running + 4
    fewer = next((n for n in SEQUENCE_STEPS if n >= need), config.layout.max_num_seqs)
    if fewer >= config.layout.max_num_seqs:
        return best
    trimmed = replace(config, layout=replace(config.layout, max_num_seqs=fewer))
    count = len(best.capacity.at.report.outcomes)
    point = model.simulate(
        trimmed, demand.workload, best.capacity.at.rate_per_s, count=max(count, 200)
    )
    peak = load_point(model, trimmed, demand.workload, best.peak.rate_per_s, goals)
    if not (holds(point, goals) and attains(peak, goals)):
        return best
    return _Scored(
        candidate=replace(best.candidate, config=trimmed),
        capacity=replace(best.capacity, at=point),
        cost=best.cost,
        peak=peak,
    )


def _choice(chosen: _Scored, demand: Demand, goals: Objectives, model: Estimator) -> Choice:
    candidate, config = chosen.candidate, chosen.candidate.config
    layout = config.layout
    memory = model.memory(config)
    on_cpu = candidate.device == CPU and not demand.emulated
    return Choice(
        service=demand.service,
        engine=demand.engine,
        engine_version=engines.facts(demand.engine, demand.engine_version).version,
        model=demand.model,
        revision=demand.revision,
        device=candidate.device,
        tensor_parallel=layout.tensor_parallel,
        pipeline_parallel=layout.pipeline_parallel,
        quantization=demand.quantization,
        kv_cache_dtype=layout.kv_cache_dtype,
        max_model_len=layout.max_model_len,
        max_num_seqs=layout.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        gpu_memory_utilization=None if on_cpu else layout.memory_share,
        kv_cache_memory_bytes=layout.kv_cache_bytes if on_cpu else None,
        kv_blocks=memory.kv_blocks,
        block_size=layout.block_size,
        replicas=chosen.cost.replicas,
        rate_per_replica=_rounded(chosen.capacity.rate_per_s),
        step=model.law(config, demand.workload),
        prediction=_prediction(chosen, goals, model),
        pretends=config.device.name if demand.emulated else None,
        cores=candidate.cores,
        memory_bytes=0 if candidate.device == CPU and demand.emulated else candidate.memory_bytes,
        usd_per_hour=_money(chosen.cost.usd_per_hour),
        notes=_notes(chosen, demand, model.doubt(config)),
    )


def _prediction(chosen: _Scored, goals: Objectives, model: Estimator) -> Prediction:
    point = chosen.peak
    doubt = point.doubt
    memory = model.memory(chosen.candidate.config)
    report = point.report
    return Prediction(
        rate_per_s=_rounded(point.rate_per_s),
        latencies=_latencies(point, goals),
        tokens_per_s=_spread(report.tokens_per_s, 1.05, doubt),
        running=_spread(report.running, doubt.step, doubt),
        kv_tokens=_spread(float(memory.kv_tokens), doubt.memory, doubt),
        attainment=_rounded_figure(attained(point, goals.goals)),
    )


def _latencies(point: Simulated, goals: Objectives) -> dict[str, Figure]:
    """p50 and p95 of every metric, and the percentiles the goals name."""
    wanted = {(metric, p) for metric in METRICS for p in (50, 95)}
    wanted |= {(goal.metric, goal.percentile) for goal in goals.goals}
    return {
        f"{metric}_p{p}": _rounded_figure(point.figure(metric, p)) for metric, p in sorted(wanted)
    }


def _row(
    scored: _Scored, chosen: _Scored, demand: Demand, goals: Objectives, model: Estimator
) -> Row:
    candidate, cost = scored.candidate, scored.cost
    config = candidate.config
    first = scored is chosen
    report = scored.peak.report
    context = demand.workload.input.mean() + demand.workload.output.mean() / 2
    used = report.running * context / max(1, model.memory(config).kv_tokens)
    tokens = demand.workload.peak_per_s * demand.workload.output.mean() * 3600
    return Row(
        label=f"{candidate.label} x{cost.replicas}",
        verdict="chosen" if first else "dearer",
        reason="" if first else _why_not(cost, chosen),
        device=candidate.device,
        tensor_parallel=config.layout.tensor_parallel,
        replicas=cost.replicas,
        devices=cost.replicas * candidate.devices,
        rate_per_replica=_rounded(scored.capacity.rate_per_s),
        latencies=_latencies(scored.peak, goals),
        attainment=_rounded_figure(attained(scored.peak, goals.goals)),
        kv_spare=round(max(0.0, 1 - used), 3),
        usd_per_hour=_money(cost.usd_per_hour),
        usd_per_million_tokens=None
        if cost.usd_per_hour is None
        else _rounded(cost.usd_per_hour / tokens * 1e6),
    )


def _why_not(cost: Cost, chosen: _Scored, *, at_least: bool = False) -> str:
    other = chosen.cost
    least = "at least " if at_least else ""
    if cost.rank > other.rank:
        if cost.usd_per_hour is not None and other.usd_per_hour is not None:
            return f"{least}{cost.usd_per_hour - other.usd_per_hour:.2f} USD/h dearer"
        return f"{least}{cost.rank / max(other.rank, 1e-9):.2g} times as much of the pool"
    if at_least:
        return "enough others were simulated"
    return "larger replicas for the same cost"


def _shortage(candidate: Candidate, cost: Cost, demand: Demand) -> str:
    """Why the steady state alone rules a candidate out."""
    if cost.rank >= 2 * SURELY_SHORT:
        return "a goal is missed even without load"
    if demand.most is not None and cost.replicas > demand.most:
        return f"the peak needs at least {cost.replicas} replicas, scale.max is {demand.most}"
    return (
        f"the peak needs at least {cost.replicas} replicas, the pool has room for {candidate.slots}"
    )


def _unsimulated(candidate: Candidate, cost: Cost, chosen: _Scored, demand: Demand) -> Row:
    """A row by the steady state alone, whose cost is a lower bound."""
    short = cost.rank >= SURELY_SHORT
    return Row(
        label=candidate.label if short else f"{candidate.label} x{cost.replicas}",
        verdict="rejected" if short else "not simulated",
        reason=_shortage(candidate, cost, demand)
        if short
        else _why_not(cost, chosen, at_least=True),
        device=candidate.device,
        tensor_parallel=candidate.config.layout.tensor_parallel,
        replicas=0 if short else cost.replicas,
        devices=0 if short else cost.replicas * candidate.devices,
        usd_per_hour=None if short else _money(cost.usd_per_hour),
    )


def _rejected(rejection: Rejection) -> Row:
    candidate = rejection.candidate
    return Row(
        label=rejection.label,
        verdict="rejected",
        reason=rejection.reason,
        device=candidate.device if candidate else "",
        tensor_parallel=candidate.config.layout.tensor_parallel if candidate else 0,
    )


def _numbers(candidate: Candidate, doubt: Doubt) -> str:
    """One sentence on where the figures come from."""
    config = candidate.config
    if config.emulated:
        return f"emulated: the step law of {config.device.name} by its data sheet, run as stated"
    if doubt.source == "measured here":
        return "step law measured here"
    if config.device.kind == "cpu":
        return "rough: processor figures, not calibrated; latencies may be off by a factor of 2"
    return (
        "data sheet and constants fitted elsewhere, not calibrated here: latencies may be off "
        f"by {round(100 * (doubt.step - 1))} %, time to first token by "
        f"{round(100 * (doubt.ttft - 1))} %"
    )


def _not_predicted(demand: Demand) -> tuple[str, ...]:
    """Stated goals that no number of the prediction answers, and what answers them instead."""
    if demand.success_rate is None:
        return ()
    return (
        f"success rate >= {format_share(demand.success_rate)}: the model has no queue limit, so "
        "it refuses no request at any load; enova status compares the goal with what is measured",
    )


def _notes(chosen: _Scored, demand: Demand, doubt: Doubt) -> tuple[str, ...]:
    notes = [_numbers(chosen.candidate, doubt)]
    if not demand.goals:
        notes.append("no goals stated: sized so that the queue does not grow")
    if "max_model_len" not in demand.pinned:
        notes.append("max_model_len: twice the longest of 1,000 requests of the stated traffic")
    if chosen.cost.usd_per_hour is not None:
        notes.append(f"price: {chosen.cost.price_source}")
    return tuple(notes)


def _sensitivity(
    chosen: _Scored, demand: Demand, goals: Objectives, model: Estimator
) -> tuple[str, ...]:
    """How the count moves with what the user may have misjudged, by the steady state."""
    config, work = chosen.candidate.config, demand.workload
    base = quick_rate(model, config, work, goals.goals)
    notes = []
    for words, changed in (
        ("answers 25 % longer", replace(work, output=work.output.scaled(1.25))),
        ("prompts 25 % longer", replace(work, input=work.input.scaled(1.25))),
    ):
        share = quick_rate(model, config, changed, goals.goals) / base if base else 0.0
        rate = chosen.capacity.rate_per_s * min(1.0, share)
        if rate <= 0:
            notes.append(f"{words}: the goals no longer hold")
            continue
        need = replicas_for(work.peak_per_s, rate, least=demand.least)
        notes.append(
            f"{words}: {format_rate(_rounded(rate))} a replica, {_replicas(need)} at the peak"
        )
    need = replicas_for(1.25 * work.peak_per_s, chosen.capacity.rate_per_s, least=demand.least)
    notes.append(f"peak 25 % higher: {_replicas(need)}")
    return tuple(notes)


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


def _spread(value: float, factor: float, doubt: Doubt) -> Figure:
    return _rounded_figure(Figure(value, value / factor, value * factor, doubt.source))


def _rounded_figure(figure: Figure) -> Figure:
    return Figure(
        _rounded(figure.value), _rounded(figure.low), _rounded(figure.high), figure.source
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _money(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
