"""The stack's own reconciler in plans: when there is one, and in which order it comes and goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from enova.base.address import RECONCILER
from enova.spec.load import load_document
from enova.stack import desired, reconciling
from enova.stack.actions import StartReconciler, StopReconciler
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.observed import Component, Observed, State
from enova.stack.plan import Ask, Inputs, Plan, plan
from enova.stack.record import Record
from enova.stack.resources import ReconcilerResource, Stack
from tests.property.worlds import pool
from tests.stack.worlds import asked, recorded, running, world

RUNS = frozenset({"prometheus", RECONCILER})
WITHOUT = frozenset({"prometheus"})


def ask(
    reconciler: str = "auto",
    *,
    target: str = "compose",
    env: Mapping[str, object] | None = None,
    gateway: Mapping[str, object] | None = None,
) -> Ask:
    """``asked`` on another pool, with secrets."""
    base = asked()
    document: dict[str, object] = dict(base.document)
    given, services = document.get("pool"), document["services"]
    assert isinstance(services, Mapping)
    chat = services["chat"]
    document["pool"] = {
        **(given if isinstance(given, Mapping) else {}),
        "target": target,
        "reconciler": reconciler,
    }
    engine = chat.get("engine", {})
    named = {"name": engine} if isinstance(engine, str) else engine
    document["services"] = {"chat": {**chat, "engine": {**named, "env": env or {}}}}
    document["gateway"] = gateway or {}
    return Ask(load_document(document), document, base.choices)


def build(of: Ask, runs: frozenset[str] = RUNS) -> Stack:
    return desired.build(of.spec, of.choices, monitors=runs)


def seen(of: Ask, *, state: State = State.SERVING) -> Observed:
    """Everything that ``of`` asks for; ``state`` is the reconciler's."""
    observed = world(of, *running(of, 0, 1))
    own = build(of).reconciler
    assert own is not None
    there = Component("reconciler-old", RECONCILER, own.digest, own.fields(), state)
    return replace(observed, components=(*observed.components, there))


def planned(
    of: Ask | None,
    before: Ask | None,
    observed: Observed,
    *,
    runs: frozenset[str] = RUNS,
    by_reconciler: bool = False,
) -> Plan:
    return plan(
        Inputs(
            stack="world",
            env="",
            ask=of,
            record=recorded(before) if before else Record("world"),
            recorded=before,
            observed=observed,
            inventory=pool(8),
            monitors=runs,
            by_reconciler=by_reconciler,
        )
    )


@pytest.mark.parametrize(
    ("wish", "target", "runs", "there"),
    [
        ("auto", "compose", RUNS, True),
        ("auto", "compose", WITHOUT, False),
        ("auto", "process", RUNS, False),
        ("container", "compose", RUNS, True),
        ("off", "compose", RUNS, False),
    ],
)
def test_when_there_is_one(wish: str, target: str, runs: frozenset[str], there: bool) -> None:
    assert (build(ask(wish, target=target), runs).reconciler is not None) is there


def test_it_has_what_the_stack_reads() -> None:
    env = {"A": {"env": "OUTER_A"}, "B": {"file": "/run/secrets/b"}, "C": "plain"}
    door = {
        "api_keys": [{"name": "ops", "secret": {"env": "OPS_KEY"}}],
        "tls": {"certificate": "/etc/pki/a.crt", "key": "/etc/pki/a.key"},
    }
    assert build(ask(env=env, gateway=door)).reconciler == ReconcilerResource(
        image=reconciling.image(),
        variables=("OPS_KEY", "OUTER_A"),
        files=("/run/secrets/b",),
        folders=("/etc/pki",),
    )


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ({"command": ["pass", "hf"]}, "command pass is a program of this machine"),
        ({"file": "~/hf"}, "file ~/hf is not named by its whole path"),
    ],
)
def test_auto_is_off_where_a_secret_is_out_of_reach(
    secret: Mapping[str, object], words: str
) -> None:
    of = ask(env={"HF_TOKEN": secret})
    assert build(of).reconciler is None
    assert words in reconciling.why_off(of.spec, build(of), runs=RUNS)


def test_why_auto_is_off() -> None:
    for of, runs, word in (
        (ask(), RUNS, ""),
        (ask(), WITHOUT, "make image"),
        (ask("off"), WITHOUT, ""),
        (ask(target="process"), WITHOUT, ""),
    ):
        why = reconciling.why_off(of.spec, build(of, runs), runs=runs)
        assert (word in why) and bool(why) is bool(word)


def test_it_is_started_after_everything_else() -> None:
    made = planned(ask(), None, Observed())
    *others, last = made.actions
    assert isinstance(last.do, StartReconciler)
    assert last.after == tuple(sorted(action.id for action in others))
    assert last.undo == (StopReconciler(last.do.component),)
    assert made.reconciled
    assert plan_from_json(plan_to_json(made)) == made


def test_another_one_replaces_it_after_everything_else() -> None:
    before, after = ask(), ask(env={"A": {"env": "OUTER_A"}})
    made = planned(after, before, seen(before))
    *others, stop, start = made.actions
    assert stop.do == StopReconciler("reconciler-old")
    assert stop.after == tuple(sorted(action.id for action in others))
    assert isinstance(start.do, StartReconciler)
    assert stop.id in start.after
    (change,) = [c for c in made.changes if c.address == RECONCILER]
    assert (change.symbol.value, [f.path for f in change.fields]) == ("∓", ["variables.OUTER_A"])


def test_nothing_differs() -> None:
    assert planned(ask(), ask(), seen(ask())).is_empty


def test_switched_off_it_goes() -> None:
    made = planned(ask("off"), ask(), seen(ask()))
    assert [action.do for action in made.actions] == [StopReconciler("reconciler-old")]
    assert not made.reconciled


def test_it_leaves_itself_alone_whatever_it_is() -> None:
    for state in (State.EXITED, State.UNHEALTHY):
        by_hand = planned(ask(), ask(), seen(ask(), state=state))
        assert by_hand.is_empty is (state is State.UNHEALTHY)
        assert planned(ask(), ask(), seen(ask(), state=state), by_reconciler=True).is_empty
    missing = world(ask(), *running(ask(), 0, 1))
    assert planned(ask(), ask(), missing, by_reconciler=True).is_empty
    assert planned(ask("off"), ask("off"), seen(ask()), by_reconciler=True).is_empty


def test_destroy_stops_it_before_anything_else_goes() -> None:
    made = planned(None, ask(), seen(ask()))
    first, *others = made.actions
    assert first.do == StopReconciler("reconciler-old")
    assert first.after == ()
    following = {first.id}
    for action in others:
        assert following & set(action.after), action.line()
        following.add(action.id)
