"""``enova plan``: what would change, why, and what it would do. Changes nothing.

Choices come from ``enova.lock`` where it answers, otherwise from sizing; then the pure planner is
asked. ``diff`` is the same question without the recommendation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enova.base.errors import Refused
from enova.stack.plan import Ask, Inputs, Plan
from enova.stack.plan import plan as make_plan
from enova.workflows.choosing import Chosen, choose
from enova.workflows.loading import Read, Source, read
from enova.workflows.wiring import Gathered, Site, Surroundings, gather, site


@dataclass(frozen=True)
class Planned:
    """A plan with what it came from: the site to carry it out on, the choices, the spec."""

    plan: Plan
    site: Site
    chosen: Chosen
    spec: Read
    unreachable_hosts: tuple[str, ...] = ()


def plan(source: Source, surroundings: Surroundings, *, locked: bool = False) -> Planned:
    """Plan a spec against what runs.

    Raises SpecError, Infeasible (no configuration meets the goals), Refused (``locked`` and the
    lock does not answer), Unreachable.
    """
    spec = read(source, surroundings.environment)
    here = site(surroundings, spec.spec.name, env=spec.env, pool=spec.spec.pool)
    seen = gather(here)
    chosen = choose(spec, seen.inventory, upgrade=False, locked=locked)
    made = make_plan(inputs_for(here, spec, seen, chosen))
    return Planned(made, here, chosen, spec, seen.observed.unreachable_hosts)


def inputs_for(here: Site, spec: Read, seen: Gathered, chosen: Chosen) -> Inputs:
    """What the planner needs for a spec."""
    monitoring = spec.spec.monitoring.prometheus
    if monitoring == "on" and not seen.prometheus_available:
        raise Refused(
            "monitoring.prometheus is on, but no prometheus program is found on PATH. Install "
            "it, or set it to auto"
        )
    return Inputs(
        stack=spec.spec.name,
        env=spec.env,
        ask=Ask(spec.spec, spec.document, chosen.choices),
        record=seen.record,
        recorded=seen.recorded,
        observed=seen.observed,
        inventory=seen.inventory,
        prometheus_available=seen.prometheus_available,
        spec_digest=spec.digest,
        lock_digest=chosen.lock_digest,
        recommendation=chosen.explained,
        notes=chosen.notes,
        sources=spec.files,
        demands=chosen.demands,
    )


def inputs_again(here: Site, saved: Plan, seen: Gathered, ask: Ask | None) -> Inputs:
    """What the planner needs to answer a saved plan's question once more."""
    return Inputs(
        stack=saved.stack,
        env=saved.env,
        ask=ask,
        record=seen.record,
        recorded=seen.recorded,
        observed=seen.observed,
        inventory=seen.inventory,
        prometheus_available=seen.prometheus_available,
        spec_digest=saved.base.spec,
        lock_digest=saved.base.lock,
        recommendation=saved.recommendation,
        notes=saved.notes,
        sources=saved.sources,
        demands=saved.demands,
    )


def without_recommendation(planned: Planned) -> Planned:
    """The same plan for ``diff``, which is about what runs and not about what was chosen."""
    return replace(planned, plan=replace(planned.plan, recommendation=()))
