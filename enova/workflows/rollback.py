"""``enova rollback``: plan an earlier applied state again.

The history holds one record for each successful apply. Rolling back is a plan whose question
comes from one of them; it is carried out like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from enova.base.errors import Refused
from enova.effects.state.store import Applied as PastApply
from enova.stack.plan import Inputs, Plan
from enova.stack.plan import plan as make_plan
from enova.workflows.wiring import Site, ask_of, gather


@dataclass(frozen=True)
class Rollback:
    """The plan that goes back, and the apply it goes back to."""

    plan: Plan
    to: PastApply


def history(here: Site) -> list[PastApply]:
    """Successful applies, newest first. The first is what the record says now."""
    return [here.state.read_apply(serial) for serial in here.state.applies()]


def plan_rollback(here: Site, *, serial: int | None) -> Rollback:
    """Plan going back to apply ``serial``, or to the newest that differs from now.

    Raises Refused when there is nothing to go back to.
    """
    seen = gather(here)
    if serial is not None:
        past = here.state.read_apply(serial)
    else:
        now = seen.record.content_digest
        earlier = (p for p in history(here) if p.record.content_digest != now)
        found = next(earlier, None)
        if found is None:
            raise Refused(f"{here.state.stack} has no earlier applied state to go back to")
        past = found
    ask = ask_of(past.record)
    if ask is None:
        raise Refused(f"apply {past.serial} holds no configuration")
    made = make_plan(
        Inputs(
            stack=here.state.stack,
            env=here.state.env,
            ask=ask,
            record=seen.record,
            recorded=seen.recorded,
            observed=seen.observed,
            inventory=seen.inventory,
            monitors=seen.monitors,
            notes=(f"rolls back to apply {past.serial}; the spec file is left as it is",),
        )
    )
    return Rollback(made, past)
