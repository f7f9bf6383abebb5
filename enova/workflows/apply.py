"""``enova apply``: carry out a plan, and only a plan.

Under the lease the plan's question is asked of the world once more. When the answer is essentially
the plan that was shown, its actions are executed, otherwise it is refused: what is reviewed is
what is applied. ``rollback`` and ``destroy`` end here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from enova.base.errors import Refused, SpecError
from enova.capacity.sizing.choice import Choice
from enova.effects.execute import Outcome, StopFlag, execute
from enova.effects.state.lease import Held
from enova.spec.load import load_document
from enova.stack.document import plan_from_json
from enova.stack.events import Event
from enova.stack.plan import Ask, Plan, next_record
from enova.stack.plan import plan as make_plan
from enova.workflows.choosing import Chosen, lock_digest_of
from enova.workflows.loading import STDIN, Source, read
from enova.workflows.lock import changed_services, write_lock
from enova.workflows.pinning import changed_images
from enova.workflows.plan import inputs_again
from enova.workflows.wiring import Gathered, Site, Surroundings, gather, site

LEASE_WAIT_S = 30.0


@dataclass(frozen=True)
class Applied:
    """What came of it. ``plan`` is the one that was carried out."""

    plan: Plan
    outcome: Outcome


def read_saved(path: str) -> Plan:
    """A plan written by ``plan --save``. Raises Refused when it is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    return plan_from_json(text)


def site_of(saved: Plan, surroundings: Surroundings) -> Site:
    """Where a saved plan is to be carried out."""
    ask = ask_in(saved)
    if ask is None:
        raise Refused("a plan to destroy is not applied from a file. Use: enova destroy")
    return site(surroundings, saved.stack, env=saved.env, pool=ask.spec.pool)


def check_files(saved: Plan, surroundings: Surroundings) -> None:
    """Refuse a saved plan whose spec or lock file is not what it was made from."""
    if not saved.sources or saved.sources == (STDIN,):
        return
    base = saved.sources[0]
    if not Path(base).exists():
        raise Refused(f"the plan was made from {base}, which is not here. Run where it lies")
    now = read(Source(base, saved.env), surroundings.environment)
    if now.digest != saved.base.spec:
        raise Refused(f"{base} changed since the plan was made. Plan again: enova plan {base}")
    # A lock that came to say what the plan says has not moved away from it.
    moved = changed_services(now, chosen_in(saved)) or changed_images(now, saved.locked_images)
    if lock_digest_of(now) != saved.base.lock and moved:
        raise Refused(f"enova.lock changed since the plan was made. Plan again: enova plan {base}")


def carry_out(
    shown: Plan,
    here: Site,
    *,
    emit: Callable[[Event], None],
    stop: StopFlag,
    command: str,
    wait_s: float = LEASE_WAIT_S,
) -> Applied:
    """Carry out the plan that was shown, or refuse when the world has moved since.

    Raises Refused (guards, lease held by another, moved), Unreachable, ActionFailed.
    """
    refuse_guards(shown)
    with here.lease(command).acquire(wait_s=wait_s) as held:
        seen = gather(here)
        fresh = make_plan(inputs_again(here, shown, seen, ask_in(shown)))
        _refuse_moved(shown, fresh)
        refuse_guards(fresh)
        outcome = carry_out_held(fresh, here, seen, held=held, emit=emit, stop=stop)
    if outcome.result == "succeeded":
        if fresh.destroys:
            here.lease(command).clear()
        else:
            keep_choices(fresh, here.surroundings)
    return Applied(fresh, outcome)


def keep_choices(made: Plan, surroundings: Surroundings) -> None:
    """Write what was applied into the lock beside its spec, so that the next plan chooses the same.

    Left out when spec or lock changed meanwhile: then they speak for a later apply.
    """
    if not made.sources or made.sources == (STDIN,):
        return
    try:
        spec = read(Source(made.sources[0], made.env), surroundings.environment)
        moved = (spec.digest, lock_digest_of(spec)) != (made.base.spec, made.base.lock)
    except SpecError:
        return
    if not moved:
        write_lock(spec, chosen_in(made), made.locked_images)


def carry_out_held(
    made: Plan,
    here: Site,
    seen: Gathered,
    *,
    held: Held,
    emit: Callable[[Event], None],
    stop: StopFlag,
) -> Outcome:
    """Execute a fresh plan under a lease we hold, and write the record at the end."""
    begun = replace(seen.record, serial=made.serial, applying=True)
    here.state.write(begun, held)
    held.on_loss(stop.request)

    def tell(event: Event) -> None:
        here.journal.note(event)
        emit(event)

    outcome = execute(
        made.actions,
        here.driver,
        clock=here.clock,
        emit=tell,
        stop=stop,
        permitted=held.check,
    )
    if outcome.result != "succeeded":
        here.state.write(replace(begun, applying=False), held)
    elif made.destroys:
        here.state.forget(held)
    else:
        after = next_record(made, seen.record)
        if after.content_digest != seen.record.content_digest:
            here.state.keep(after, held, at=here.clock.now())
        here.state.write(after, held)
    return outcome


def ask_in(saved: Plan) -> Ask | None:
    """The configuration a plan asks for; None when it destroys."""
    if saved.next_document is None:
        return None
    choices: dict[str, Choice] = {}
    for name, data in sorted(saved.next_choices.items()):
        if not isinstance(data, Mapping):
            raise Refused(f"not a saved plan: the choice of {name} is damaged")
        choices[name] = Choice.from_plain(data)
    return Ask(load_document(saved.next_document), saved.next_document, choices, saved.next_images)


def chosen_in(saved: Plan) -> Chosen:
    """The choices a plan asks for, with the demands they answer."""
    ask = ask_in(saved)
    choices = ask.choices if ask is not None else {}
    demands = {name: saved.demands.get(name, "") for name in choices}
    return Chosen(choices, demands, (), sized=(), notes=(), lock_digest=saved.base.lock)


def refuse_guards(made: Plan) -> None:
    """Raise Refused with every guard of a plan."""
    if made.guards:
        lines = "\n".join(f"  {guard.address}: {guard.message}" for guard in made.guards)
        raise Refused(f"This plan must not be applied:\n{lines}")


def _refuse_moved(shown: Plan, fresh: Plan) -> None:
    """Raise Refused, naming what moved, unless both plans are essentially the same."""
    if (fresh.essence, fresh.base.record) == (shown.essence, shown.base.record):
        return
    if fresh.base.record != shown.base.record:
        moved = "something else was applied"
    elif fresh.base.observed != shown.base.observed:
        moved = "what runs changed"
    else:
        moved = "the pool or the program versions changed"
    raise Refused(f"The plan is stale: {moved} since it was made. Plan again")
