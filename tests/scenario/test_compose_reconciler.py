"""A stack that keeps itself: its reconciler is one of its containers.

On two emulated replicas behind a real Envoy, watched by a real Prometheus. One story, told
in order: each test finds the stack as the one before left it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from enova.effects.sources.prometheus_api import PrometheusApi
from enova.effects.state.keeper import Keeper, read_keeper
from enova.effects.state.store import StateDir
from tests.scenario.containers import ContainerStack
from tests.scenario.kinds import FEW_CONTAINERS, Kind
from tests.scenario.load import ANSWERED, Ask, ask_once
from tests.scenario.world import DIFFERENT, OK, Stack, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

KIND = replace(FEW_CONTAINERS, name="kept")
SERVICE = KIND.first
COUNT = KIND.counts()[SERVICE]
FIRST, SECOND = "word-of-the-variable", "word-of-the-file"


@pytest.fixture(scope="module")
def kept(make_stack: Callable[[Kind], Stack]) -> Iterator[ContainerStack]:
    """The stack of these tests, with a secret of each kind that a container can have."""
    stack = make_stack(KIND)
    assert isinstance(stack, ContainerStack)
    spec: dict[str, Any] = json.loads(json.dumps(stack.spec))
    spec["pool"]["reconciler"] = "container"
    secret = stack.folder / "second"
    secret.write_text(SECOND)
    engine = spec["services"][SERVICE]["engine"]
    engine["env"] = {"FIRST": {"env": "KEPT_FIRST"}, "SECOND": {"file": str(secret)}}
    stack.spec = spec
    stack.write(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPT_FIRST", FIRST)
        yield stack


@pytest.fixture
def keeping(kept: ContainerStack) -> ContainerStack:
    """The stack, applied, with its reconciler."""
    if kept.enova("diff", str(kept.file), expect=None).code != OK:
        kept.apply()
    return kept


def test_apply_starts_it_last_and_status_names_it(kept: ContainerStack) -> None:
    with step("the plan starts it after everything else"):
        actions = kept.plan()["actions"]
        assert actions[-1]["do"]["kind"] == "start-reconciler"
        assert set(actions[-1]["after"]) == {action["id"] for action in actions[:-1]}
    kept.apply()
    name = reconciler(kept)
    with step("status says that it looks after the stack, and where it runs"):
        until("it looks at what was applied", lambda: looks_well(kept, name), within_s=30)
        told = kept.enova("status", kept.name).out
        assert f"reconciled by container {name}" in told, told
        document = json.loads(kept.enova("status", kept.name, "-o", "json").out)
        assert document["reconciler"]["host"] == name
    with step("it reads Prometheus, and Prometheus reads it"):
        until("it answers there", lambda: source_inside(kept, name) == "prometheus", within_s=60)
        until("its page is read", lambda: is_read(kept), within_s=30)
    with step("its output is there by its address"):
        kept.enova("logs", "reconciler", kept.name)
    with step("no secret is in the file or in the stack's state"):
        assert FIRST not in kept.compose_file.read_text()
        for file in kept.state.rglob("*"):
            if file.is_file() and not file.is_socket():
                assert FIRST.encode() not in file.read_bytes(), file
    kept.enova("diff", str(kept.file), expect=OK)


def test_it_replaces_a_container_removed_by_hand(keeping: ContainerStack) -> None:
    name = reconciler(keeping)
    victim = sorted(keeping.in_rotation(SERVICE))[0]
    keeping.docker.docker("rm", "--force", keeping.container(victim))
    healed(keeping, without=victim)
    with step("the new one has both secrets"):
        new = newest(keeping)
        assert {f"FIRST={FIRST}", f"SECOND={SECOND}"} <= set(new["Config"]["Env"])
    assert reconciler(keeping) == name


def test_killed_it_comes_back_by_itself_and_goes_on(keeping: ContainerStack) -> None:
    name = reconciler(keeping)
    before = container_of(keeping, name)["State"]["StartedAt"]
    keeping.kill(name)
    with step("Docker starts it again"):
        until(
            "it runs again",
            lambda: (
                (now := container_of(keeping, name)["State"])["Running"]
                and now["StartedAt"] != before
            ),
            within_s=30,
        )
    victim = sorted(keeping.in_rotation(SERVICE))[0]
    keeping.docker.docker("stop", keeping.container(victim))
    healed(keeping, without=victim)


def test_beside_it_a_second_one_does_no_harm(keeping: ContainerStack) -> None:
    name = reconciler(keeping)
    victim = sorted(keeping.in_rotation(SERVICE))[0]
    with keeping.reconciling():
        keeping.docker.docker("rm", "--force", keeping.container(victim))
        healed(keeping, without=victim)
    with step("one replacement, made by one of them"):
        assert len(keeping.instances(SERVICE)) == COUNT
        assert reconciler(keeping) == name
    with step("it is the one that is left"):
        until("it is noted again", lambda: looks_well(keeping, name), within_s=30)


def test_only_people_start_and_stop_it(keeping: ContainerStack) -> None:
    name = reconciler(keeping)
    keeping.docker.docker("stop", keeping.container(name))
    with step("diff says that it was stopped by hand, and nobody reconciles"):
        told = keeping.enova("diff", str(keeping.file), expect=DIFFERENT)
        assert "reconciler" in told.out, told
        assert "stopped by hand (exit code 0)" in told.out, told
        assert "nobody reconciles it" in keeping.enova("status", keeping.name).out
    with step("another reconciler leaves it alone"):
        keeping.enova("reconcile", keeping.name, "--once")
        assert keeping.components("reconciler") == []
    with step("apply starts another one"):
        keeping.apply()
        assert reconciler(keeping) != name
        keeping.enova("diff", str(keeping.file), expect=OK)


def test_destroy_stops_it_first_and_leaves_nothing(keeping: ContainerStack) -> None:
    reconciler(keeping)
    keeping.enova("destroy", keeping.name, "--yes")
    with step("it went before anything else was touched"):
        steps = [e["detail"]["step"] for e in keeping.journal() if e["detail"].get("step")]
        last = [s for s in steps if s in ("stop-reconciler", "drain", "stop-replica")]
        ended = last[len(last) - 1 - last[::-1].index("stop-reconciler") :]
        assert "drain" in ended
        assert "stop-replica" in ended
    with step("nothing is left"):
        assert keeping.left() == []
        assert not keeping.state.joinpath("run").exists()
        assert sorted(p.name for p in keeping.state.iterdir()) == ["journal.jsonl"]


def reconciler(stack: ContainerStack) -> str:
    """The id of the one that runs."""
    (name,) = stack.components("reconciler")
    return name


def note(stack: ContainerStack) -> Keeper | None:
    """Who looked last."""
    return read_keeper(StateDir(stack.state.parent, stack.name))


def looks_well(stack: ContainerStack, name: str) -> bool:
    """Whether that one looked last, and found nothing in its way."""
    found = note(stack)
    return found is not None and (found.holder.host, found.problem) == (name, "")


def source_inside(stack: ContainerStack, name: str) -> str:
    """Where signals come from for one who looks from where the reconciler does."""
    words = ["enova", "status", stack.name, "-o", "json"]
    told = stack.docker.docker("exec", stack.container(name), *words)
    return str(json.loads(told)["signals"][SERVICE]["source"])


def is_read(stack: ContainerStack) -> bool:
    """Whether Prometheus has a tick of it."""
    port = stack.spec["monitoring"]["prometheus"]["port"]
    with PrometheusApi(f"http://127.0.0.1:{port}") as api:
        return any(t.job == "enova" and t.up for t in api.targets())


def healed(stack: ContainerStack, *, without: str) -> None:
    """As many replicas serve as should, another one instead of that one."""
    with step("another one is in its place, and answers"):
        until(
            "all replicas are back",
            lambda: len(serving := stack.in_rotation(SERVICE)) == COUNT and without not in serving,
            within_s=60,
        )
        reply = ask_once(stack.url, Ask(SERVICE, KIND.tokens, stream=True))
        assert reply.kind == ANSWERED, reply


def container_of(stack: ContainerStack, component: str) -> dict[str, Any]:
    found = stack.docker.docker("container", "inspect", stack.container(component))
    inspected: list[dict[str, Any]] = json.loads(found)
    return inspected[0]


def newest(stack: ContainerStack) -> dict[str, Any]:
    """The replica made last, in Docker's words."""
    replicas = [
        one for one in stack.inspected() if one["Config"]["Labels"]["enova.kind"] == "replica"
    ]
    return max(replicas, key=lambda one: str(one["Created"]))
