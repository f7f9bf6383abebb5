"""``enova destroy``: a plan that asks for nothing. The journal stays."""

from __future__ import annotations

from enova.stack.plan import Inputs, Plan
from enova.stack.plan import plan as make_plan
from enova.workflows.wiring import Site, gather


def plan_destroy(here: Site, *, models: bool = False) -> Plan:
    """Plan the end of a stack; empty when nothing of it is there. ``models``: those it downloaded
    too, where the target keeps them in a volume of its own."""
    seen = gather(here)
    return make_plan(
        Inputs(
            stack=here.state.stack,
            env=here.state.env,
            ask=None,
            record=seen.record,
            recorded=seen.recorded,
            observed=seen.observed,
            inventory=seen.inventory,
            monitors=seen.monitors,
            remove_models=models,
            notes=("the models it downloaded are removed too",) if models else (),
        )
    )
