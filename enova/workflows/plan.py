"""``enova plan``: what would change, why, and what it would do. Changes nothing.

Choices come from ``enova.lock`` where it answers, otherwise from sizing; then the pure planner is
asked. ``diff`` is the same question without the recommendation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enova.base.address import RECONCILER
from enova.base.errors import Refused
from enova.capacity.catalog import images
from enova.stack import desired, monitoring, reconciling
from enova.stack.plan import Ask, Inputs, Plan
from enova.stack.plan import plan as make_plan
from enova.workflows.choosing import Chosen, choose
from enova.workflows.loading import Read, Source, read
from enova.workflows.pinning import Asking, Pinned, pin, refuse_unlocked
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
    asking: Asking = "nobody" if locked else "unknown"
    pinned = pin(spec, here, chosen.choices, monitors=seen.monitors, asking=asking)
    if locked:
        refuse_unlocked(spec, pinned, applied=seen.record.images)
    made = make_plan(inputs_for(here, spec, seen, chosen, pinned))
    return Planned(made, here, chosen, spec, seen.observed.unreachable_hosts)


def inputs_for(here: Site, spec: Read, seen: Gathered, chosen: Chosen, pinned: Pinned) -> Inputs:
    """What the planner needs for a spec."""
    _refuse_missing(spec, seen)
    return Inputs(
        stack=spec.spec.name,
        env=spec.env,
        ask=Ask(spec.spec, spec.document, chosen.choices, pinned.images),
        record=seen.record,
        recorded=seen.recorded,
        observed=seen.observed,
        inventory=seen.inventory,
        monitors=seen.monitors,
        spec_digest=spec.digest,
        lock_digest=chosen.lock_digest,
        recommendation=chosen.explained,
        notes=(
            *chosen.notes,
            *pinned.notes,
            *_left_out(spec, seen),
            *_nobody_reconciles(here, spec, seen, chosen),
        ),
        sources=spec.files,
        demands=chosen.demands,
        locked_images=pinned.locked,
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
        monitors=seen.monitors,
        spec_digest=saved.base.spec,
        lock_digest=saved.base.lock,
        recommendation=saved.recommendation,
        notes=saved.notes,
        sources=saved.sources,
        demands=saved.demands,
        locked_images=saved.locked_images,
        monitoring=saved.monitoring,
        remove_models=saved.removes_models,
    )


def _refuse_missing(spec: Read, seen: Gathered) -> None:
    """Raise Refused when a monitor is ``on``, or the reconciler is to be a container, and the
    target cannot run it."""
    for name in monitoring.missing(spec.spec, runs=seen.monitors):
        key = f"monitoring.{monitoring.KEYS[name]}"
        why, remedy = _why_missing(name, spec)
        raise Refused(f"{key} is on, but {why}. {remedy}, or set {key} to auto")
    if spec.spec.pool.reconciler == "container" and RECONCILER not in seen.monitors:
        raise Refused(
            f"pool.reconciler is container, but its image {reconciling.image()} is not here. Make "
            "it (make image), or set pool.reconciler to off"
        )


def _nobody_reconciles(here: Site, spec: Read, seen: Gathered, chosen: Chosen) -> tuple[str, ...]:
    """A note of the first plan, and of one that ends it: why ``auto`` leaves out the reconciler."""
    runs = any(c.address == RECONCILER for c in seen.observed.components)
    if seen.record.serial and not runs:
        return ()
    stack = desired.build(spec.spec, chosen.choices, monitors=seen.monitors)
    why = reconciling.why_off(spec.spec, stack, runs=seen.monitors)
    if not why:
        return ()
    env = f" --env {spec.env}" if spec.env else ""
    return (
        f"no container reconciles the stack: {why}. Run `enova reconcile {here.state.stack}{env}`, "
        "or the systemd unit that `enova render` writes",
    )


def _why_missing(name: str, spec: Read) -> tuple[str, str]:
    """Why this target cannot run a monitor, and what to do about it."""
    if spec.spec.pool.target == "process":
        programs = monitoring.PROGRAMS.get(name)
        if programs is None:
            return "the target process does not run it", "Use pool.target: compose"
        return f"{' or '.join(programs)} is not on PATH", "Install it"
    asked = monitoring.part(spec.spec.monitoring, name).image
    image = asked or images.program_image(name).reference
    needs = f"its image {image} is neither here nor can it be pulled"
    if name == monitoring.DCGM_EXPORTER:
        return f"there are no GPUs for it, or {needs}", "Pull it"
    return needs, "Pull it"


def _left_out(spec: Read, seen: Gathered) -> tuple[str, ...]:
    """A note of the first plan: what ``auto`` leaves out because the target cannot run it."""
    names = monitoring.left_out(spec.spec, runs=seen.monitors)
    if not names or seen.record.serial:
        return ()
    target = spec.spec.pool.target
    return (f"monitoring goes without {', '.join(names)}: the target {target} has none here",)


def without_recommendation(planned: Planned) -> Planned:
    """The same plan for ``diff``, which is about what runs and not about what was chosen."""
    return replace(planned, plan=replace(planned.plan, recommendation=()))
