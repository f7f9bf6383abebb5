"""Safety of planning over random worlds: plan, then apply on the fake driver, then plan is empty.

Every change has a reason, nothing foreign is touched, devices are never given twice, and a service
never serves with fewer replicas than its rollout allows.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enova.effects.clock import SystemClock
from enova.effects.drivers.fake import FakeDriver, Foreign, World
from enova.effects.execute import StopFlag, execute
from enova.stack.compare import Intents
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.observed import Observed, Placement, State
from enova.stack.owners import Reason
from enova.stack.plan import Ask, Inputs, Plan, next_record, plan
from enova.stack.record import Record
from tests.property.worlds import Wish, ask_for, pool, wishes

GPUS = 16


def inputs(
    driver: FakeDriver, record: Record, ask: Ask | None, recorded: Ask | None, intents: Intents
) -> Inputs:
    return Inputs(
        stack="world",
        env="",
        ask=ask,
        record=record,
        recorded=recorded,
        observed=driver.observe(),
        inventory=driver.inventory(),
        monitors=frozenset({"prometheus"}),
        intents=intents,
    )


class Stack:
    """A stack on a fake target, moved along by plans."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.record = Record("world")
        self.applied: Ask | None = None

    def plan(self, ask: Ask | None, intents: Intents | None = None) -> Plan:
        made = plan(inputs(self.driver, self.record, ask, self.applied, intents or Intents()))
        for change in made.changes:
            assert isinstance(change.reason, Reason)
        for action in made.actions:
            assert action.cause
        assert plan_from_json(plan_to_json(made)) == made
        return made

    def apply(self, ask: Ask | None, intents: Intents | None = None) -> Plan:
        made = self.plan(ask, intents)
        watched = Watched(self.driver, made)
        outcome = execute(
            made.actions, watched, clock=SystemClock(), emit=lambda _: None, stop=StopFlag()
        )
        assert outcome.result == "succeeded", outcome.failures
        assert not self.driver.to_world()["stopped_while_joined"]
        self.record, self.applied = next_record(made, self.record), ask
        return made


class Watched:
    """The fake driver with an eye on how many replicas serve after every step."""

    def __init__(self, driver: FakeDriver, made: Plan) -> None:
        self._driver = driver
        before = driver.observe()
        self._floors = {
            note.service: min(note.lowest_serving, members(before, note.service))
            for note in made.rollouts
        }

    def __getattr__(self, name: str) -> object:
        return getattr(self._driver, name)

    def perform(self, action: object, progress: object) -> None:
        self._driver.perform(action, progress)
        seen = self._driver.observe()
        for service, floor in self._floors.items():
            assert members(seen, service) >= floor, f"{service} fell below {floor}"
        held = [(i.placement.host, g) for i in seen.instances for g in i.placement.gpus]
        assert len(held) == len(set(held)), "a device was given twice"


def members(seen: Observed, service: str) -> int:
    serving = {i.id for i in seen.of_service(service) if i.state is State.SERVING}
    return sum(1 for m in seen.members.get(service, ()) if not m.draining and m.instance in serving)


def fresh() -> Stack:
    return Stack(FakeDriver(World(inventory=pool(GPUS))))


slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@slow
@given(first=wishes(), second=wishes(), port=st.sampled_from([9199, 9200]))
def test_plan_after_apply_is_empty(
    first: tuple[Wish, ...], second: tuple[Wish, ...], port: int
) -> None:
    stack = fresh()
    for wanted, at in ((first, 9199), (second, port)):
        ask = ask_for(wanted, port=at)
        stack.apply(ask)
        again = stack.plan(ask)
        assert again.is_empty, again.changes
        counts = {c.service: c.wanted for c in again.counts}
        for wish in wanted:
            assert members(stack.driver.observe(), wish.name) == counts[wish.name]


@slow
@given(wanted=wishes(), data=st.data())
def test_damage_is_repaired_and_every_repair_has_its_reason(
    wanted: tuple[Wish, ...], data: st.DataObject
) -> None:
    stack = fresh()
    ask = ask_for(wanted, port=9199)
    stack.apply(ask)
    ids = sorted(i.id for i in stack.driver.observe().instances)
    dead = data.draw(st.lists(st.sampled_from(ids), unique=True))
    with stack.driver.edit() as world:
        for instance in dead:
            world.instances[instance].exit("killed by signal 9")
    made = stack.apply(ask)
    repaired = [c for c in made.changes if c.reason is Reason.FAILED_BEFORE]
    assert len(repaired) == len(dead)
    assert stack.plan(ask).is_empty


@slow
@given(wanted=wishes(), counts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_scaling_leaves_an_empty_plan_for_people(
    wanted: tuple[Wish, ...], counts: list[int]
) -> None:
    stack = fresh()
    ask = ask_for(wanted, port=9199)
    stack.apply(ask)
    for count in counts:
        stack.apply(ask, Intents(counts={wanted[0].name: count}))
        assert members(stack.driver.observe(), wanted[0].name) == count
        assert stack.plan(ask).is_empty


@slow
@given(wanted=wishes())
def test_destroy_leaves_only_what_is_foreign(wanted: tuple[Wish, ...]) -> None:
    stack = fresh()
    with stack.driver.edit() as world:
        world.foreign.append(Foreign("somebody-else", Placement("local", gpus=(0,))))
    stack.apply(ask_for(wanted, port=9199))
    stack.apply(None)
    seen = stack.driver.observe()
    assert not seen.instances
    assert not seen.components
    assert not any(seen.members.values())
    assert stack.driver.to_world()["foreign"]


@slow
@given(wanted=wishes())
def test_the_same_inputs_give_the_same_text(wanted: tuple[Wish, ...]) -> None:
    ask = ask_for(wanted, port=9199)
    assert plan_to_json(fresh().plan(ask)) == plan_to_json(fresh().plan(ask))
