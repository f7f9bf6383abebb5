"""From what the user wrote to what sizing computes with.

In: one service of the spec and its model's shape. Out: a ``Demand``. Arguments the user gave the
engine that are fields of a choice become fixed ones, so sizing predicts what will really run.
"""

from __future__ import annotations

from collections.abc import Mapping

from enova.base.digest import digest
from enova.base.errors import SpecError
from enova.base.problems import Problem
from enova.base.source import Path
from enova.capacity.catalog import engines
from enova.capacity.catalog.shape import ModelShape, with_quantization
from enova.capacity.perf.estimate import Calibration
from enova.capacity.sim.report import METRICS, Goal, Objectives
from enova.capacity.sizing.demand import PINNABLE, Demand, Pin
from enova.capacity.workload import Lengths, Workload
from enova.spec import model as spec

SHORT_FLAGS = {"tp": "tensor_parallel", "pp": "pipeline_parallel", "q": "quantization"}
"""Spellings of the engine beside the long ones."""


def demand_for(
    name: str,
    service: spec.Service,
    *,
    shape: ModelShape,
    prices: Mapping[str, float] | None = None,
    lengths: tuple[Lengths, Lengths] | None = None,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Demand:
    """The demand of one service. ``lengths`` (input, output) of a trace replace the stated ones.

    Raises SpecError, with the paths, for figures that no traffic has, an engine version that is
    unknown and a quantization that does not go with the checkpoint.
    """
    at: Path = ("services", name)
    problems: list[Problem] = []
    pinned = _pinned(at, service, problems)
    quantization = service.model.quantization
    if quantization is None and isinstance(service.engine.args.get("quantization"), str):
        quantization = str(service.engine.args["quantization"])
    try:
        with_quantization(shape, quantization)
    except ValueError as error:
        problems.append(Problem("E227", str(error), (*at, "model", "quantization")))
    work = _workload(at, service.traffic, lengths, problems)
    if problems or work is None:
        raise SpecError(problems)
    objectives = goals_of(service.goals)
    stated = service.goals.model_fields_set
    return Demand(
        service=name,
        model=service.model.id,
        shape=shape,
        workload=work,
        engine=service.engine.name,
        engine_version=service.engine.version,
        revision=service.model.revision,
        quantization=quantization,
        goals=objectives.goals,
        attainment=objectives.attainment,
        success_rate=service.goals.success_rate if "success_rate" in stated else None,
        least=service.scale.fewest,
        most=service.scale.max,
        priority=service.priority,
        prices=dict(sorted((prices or {}).items())),
        pinned=pinned,
        calibrations=dict(sorted((calibrations or {}).items())),
    )


def goals_of(goals: spec.Goals) -> Objectives:
    """The latency goals, sorted, and the share of requests that must be within all of them."""
    found = []
    for metric in METRICS:
        limits: Mapping[str, float] | None = getattr(goals, metric)
        for percentile, limit in (limits or {}).items():
            found.append(Goal(metric, int(percentile.removeprefix("p")), limit))
    return Objectives(tuple(sorted(found)), goals.attainment)


def workload_of(traffic: spec.Traffic) -> Workload:
    """The stated traffic. Raises ValueError for figures that contradict each other."""
    return Workload(
        peak_per_s=traffic.peak,
        mean_per_s=traffic.mean or traffic.peak,
        input=_lengths(traffic.input_tokens),
        output=_lengths(traffic.output_tokens),
        prefix_reuse=min(traffic.prefix_reuse, 0.99),
    )


def demand_key(demand: Demand) -> str:
    """Digest of what the user asked for: under it the lock holds the choice.

    A share of requests that is not asked for is left out, as it was before it could be asked.
    Leaves out what enova knows by itself (the model's parsed shape beyond its size, prices of the
    catalog), so that a newer enova still finds the choice an older one locked.
    """
    work = demand.workload
    goals: list[list[object]] = [[g.metric, g.percentile, g.limit_s] for g in demand.goals]
    if demand.attainment is not None:
        goals.append(["attainment", demand.attainment])
    return digest(
        {
            "service": demand.service,
            "model": [demand.model, demand.revision, demand.quantization],
            "parameters": demand.shape.parameters(),
            "engine": [demand.engine, demand.engine_version],
            "goals": goals,
            "rates": [work.peak_per_s, work.mean_per_s, work.prefix_reuse, work.burstiness],
            "input": _law(work.input),
            "output": _law(work.output),
            "scale": [demand.least, demand.most],
            "prices": demand.prices,
            "pinned": demand.pinned,
        }
    )


def _law(lengths: Lengths) -> list[float]:
    """A length law by its figures, rounded so that arithmetic of another machine agrees."""
    figures = [float(f"{x:.6g}") for x in (lengths.mu, lengths.sigma)]
    return [*figures, float(len(lengths.samples)), float(sum(lengths.samples))]


def _workload(
    at: Path,
    traffic: spec.Traffic,
    lengths: tuple[Lengths, Lengths] | None,
    problems: list[Problem],
) -> Workload | None:
    laws = []
    for index, key in enumerate(("input_tokens", "output_tokens")):
        if lengths is not None:
            laws.append(lengths[index])
            continue
        try:
            laws.append(_lengths(getattr(traffic, key)))
        except ValueError as error:
            problems.append(Problem("E228", f"{key}: {error}", (*at, "traffic", key)))
    if len(laws) < 2:
        return None
    return Workload(
        peak_per_s=traffic.peak,
        mean_per_s=traffic.mean or traffic.peak,
        input=laws[0],
        output=laws[1],
        prefix_reuse=min(traffic.prefix_reuse, 0.99),
    )


def _lengths(stated: spec.Lengths) -> Lengths:
    return Lengths.fit(mean=stated.mean, p50=stated.p50, p95=stated.p95)


def _pinned(at: Path, service: spec.Service, problems: list[Problem]) -> dict[str, Pin]:
    """The fields of a choice that the user fixed."""
    pinned: dict[str, Pin] = {}
    try:
        facts = engines.facts(service.engine.name, service.engine.version)
    except ValueError as error:
        problems.append(Problem("E229", str(error), (*at, "engine", "version")))
        return pinned
    fields = {flag: field for field, flag in facts.flags.items() if field in PINNABLE}
    fields |= {flag: field for flag, field in SHORT_FLAGS.items() if field in PINNABLE}
    texts = {"kv_cache_dtype", "device"}
    for flag, value in sorted(service.engine.args.items()):
        field = fields.get(flag.replace("_", "-"))
        if field is None:
            continue
        number = _number(value)
        if field not in texts and number is None:
            problems.append(
                Problem("E230", f"{flag}: a number is needed", (*at, "engine", "args", flag))
            )
        else:
            pinned[field] = str(value) if field in texts or number is None else number
    if service.model.max_model_len is not None:
        pinned.setdefault("max_model_len", service.model.max_model_len)
    return pinned


_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


def _number(value: object) -> int | float | None:
    """A number, or one as the engine reads it: ``8k`` is 8000, ``8K`` 8192. None for no number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    text = str(value).strip()
    factor = _SUFFIXES.get(text[-1:], 1)
    try:
        number = float(text[:-1] if factor != 1 else text) * factor
    except ValueError:
        return None
    return int(number) if number.is_integer() else number
