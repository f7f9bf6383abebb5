"""What people and Docker do to containers behind enova's back: named as drift, then repaired.

On two emulated replicas in containers behind a real Envoy, watched by a real Prometheus. The tests
bring the stack up by themselves, so each of them can be run alone.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parts.containers import DockerEngine
from tests.parts.daemon import Daemon, copied, own_daemon
from tests.scenario.conftest import settle
from tests.scenario.containers import ContainerStack
from tests.scenario.kinds import FEW_CONTAINERS, Kind
from tests.scenario.load import ANSWERED, Ask, ask_once
from tests.scenario.test_obligations import nothing_failed
from tests.scenario.world import DIFFERENT, FAILED, OK, Stack, free_ports, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

KIND = FEW_CONTAINERS
SERVICE = KIND.first
COUNT = KIND.counts()[SERVICE]


@pytest.fixture(scope="module")
def boxes(make_stack: Callable[[Kind], Stack]) -> ContainerStack:
    """The stack of these tests; nothing of it runs yet."""
    stack = make_stack(KIND)
    assert isinstance(stack, ContainerStack)
    return stack


def test_a_removed_container_is_named_and_applied_again(boxes: ContainerStack) -> None:
    settle(boxes)
    victim = sorted(boxes.in_rotation(SERVICE))[0]
    boxes.docker.docker("rm", "--force", boxes.container(victim))
    with step("diff says that it was removed by hand"):
        told = boxes.enova("diff", str(boxes.file), expect=DIFFERENT)
        assert "failed before: its container was removed by hand" in told.out, told
        assert boxes.container(victim) not in told.out
    with step("the other one answers meanwhile"):
        answers(boxes)
    with step("apply puts another one in its place"):
        boxes.apply()
        repaired(boxes, without=victim)


def test_a_stopped_container_is_named_and_reconciled(boxes: ContainerStack) -> None:
    settle(boxes)
    victim = sorted(boxes.in_rotation(SERVICE))[0]
    with boxes.load(KIND.rate / 2, tokens=KIND.tokens) as load:
        load.more(5)
        boxes.docker.docker("stop", "--time", "20", boxes.container(victim))
        with step("diff says that it was stopped by hand"):
            told = boxes.enova("diff", str(boxes.file), expect=DIFFERENT)
            assert "failed before: stopped by hand (exit code 0)" in told.out, told
        with boxes.reconciling(), step("the reconciler puts another one in its place"):
            until(
                "all replicas are back",
                lambda: len(boxes.in_rotation(SERVICE) - {victim}) == COUNT,
                within_s=KIND.start_s,
            )
        load.more(5)
    with step("it was asked to end, so no request failed"):
        nothing_failed(load)
    repaired(boxes, without=victim)


def test_what_was_edited_by_hand_is_replaced(boxes: ContainerStack) -> None:
    settle(boxes)
    first, second = sorted(boxes.in_rotation(SERVICE))
    with step("a label edited in the file, and its container made anew from it"):
        text = boxes.compose_file.read_text()
        suffix = first.rpartition("-")[2]
        edited = text.replace(f"enova.apply: {suffix}", "enova.apply: mine")
        assert edited != text
        boxes.compose_file.write_text(edited)
        boxes.compose("up", "--detach", first)
    with step("a limit changed under a running container"):
        container = boxes.container(second)
        boxes.docker.docker("update", "--memory", "700m", "--memory-swap", "-1", container)
    with step("diff says what of each was changed"):
        told = boxes.enova("diff", str(boxes.file), expect=DIFFERENT)
        reasons = {c["address"]: c for c in boxes.plan()["changes"]}
        assert f"its label enova.apply was changed from {suffix} to mine" in told.out, told
        assert "its limit memory was changed" in told.out, told
        assert {c["reason"] for c in reasons.values()} == {"drifted"}, reasons
    with step("both are in rotation"):
        until("all serve", lambda: boxes.in_rotation(SERVICE) == {first, second}, within_s=30)
    with boxes.load(KIND.rate / 2, tokens=KIND.tokens) as load:
        load.more(5)
        with step("apply replaces them, and the file is enova's again"):
            boxes.apply()
            assert "enova.apply: mine" not in boxes.compose_file.read_text()
        load.more(5)
    nothing_failed(load)
    repaired(boxes, without=first)
    repaired(boxes, without=second)


def test_a_removed_gateway_and_a_stopped_prometheus_come_back(boxes: ContainerStack) -> None:
    settle(boxes)
    before = boxes.in_rotation(SERVICE)
    (gateway,) = boxes.components("gateway")
    (prometheus,) = boxes.components("monitoring-prometheus")
    boxes.docker.docker("rm", "--force", boxes.container(gateway))
    boxes.docker.docker("stop", boxes.container(prometheus))
    with step("diff names both, and why"):
        told = boxes.enova("diff", str(boxes.file), expect=DIFFERENT)
        removed = r"\+ gateway +failed before: its container was removed by hand"
        stopped = r"\+ monitoring/prometheus +failed before: stopped by hand \(exit code 0\)"
        assert re.search(removed, told.out), told
        assert re.search(stopped, told.out), told
    with boxes.reconciling(), step("the reconciler starts both, with the members there were"):
        until("they serve", lambda: boxes.in_rotation(SERVICE) == before, within_s=30)
        until("it runs", lambda: boxes.components("monitoring-prometheus") != [], within_s=30)
    repaired(boxes)


def test_an_edited_gateway_and_prometheus_are_replaced(boxes: ContainerStack) -> None:
    settle(boxes)
    before = boxes.in_rotation(SERVICE)
    (gateway,) = boxes.components("gateway")
    (prometheus,) = boxes.components("monitoring-prometheus")
    with step("the gateway is published to everybody, Prometheus is given more memory"):
        port = boxes.spec["gateway"]["port"]
        text = boxes.compose_file.read_text()
        edited = text.replace(f"127.0.0.1:{port}:", f"0.0.0.0:{port}:")
        assert edited != text
        boxes.compose_file.write_text(edited)
        boxes.compose("up", "--detach", gateway)
        container = boxes.container(prometheus)
        boxes.docker.docker("update", "--memory", "3g", "--memory-swap", "-1", container)
    with step("diff says what of each was changed"):
        told = boxes.enova("diff", str(boxes.file), expect=DIFFERENT)
        assert re.search(r"gateway +drifted: it publishes other ports", told.out), told
        assert re.search(r"prometheus +drifted: its limit memory was changed", told.out), told
    with boxes.reconciling(), step("the reconciler puts others in their places"):
        until("a new gateway", lambda: gateway not in boxes.components("gateway"), within_s=30)
        until("they serve", lambda: boxes.in_rotation(SERVICE) == before, within_s=30)
        until(
            "a new Prometheus",
            lambda: boxes.components("monitoring-prometheus") not in ([], [prometheus]),
            within_s=30,
        )
    repaired(boxes)


def test_a_container_that_is_not_ours_is_left_alone(boxes: ContainerStack) -> None:
    settle(boxes)
    image = boxes.inspected()[0]["Image"]
    theirs = f"{boxes.project}-somebody"
    words = ["run", "--detach", "--network", f"{boxes.project}_inside", "--name", theirs]
    words += ["--label", "enova.stack=another", "--entrypoint", "sleep", image, "600"]
    boxes.docker.docker(*words)
    try:
        with step("it is no difference"):
            boxes.enova("diff", str(boxes.file), expect=OK)
        with step("apply does not touch it"):
            boxes.apply()
            running = boxes.docker.docker("inspect", "--format", "{{.State.Running}}", theirs)
            assert running.strip() == "true"
    finally:
        boxes.docker.attempt("rm", "--force", theirs)


@pytest.fixture
def daemon(docker_engine: DockerEngine) -> Iterator[Daemon]:
    """An engine that these tests may restart."""
    with own_daemon() as mine:
        yield mine


@pytest.fixture
def alone(
    docker_engine: DockerEngine,
    docker_image: Callable[[str], str],
    daemon: Daemon,
    stacks: list[Stack],
) -> Iterator[ContainerStack]:
    """A stack on an engine of its own; nothing of it runs yet."""
    kind = replace(KIND, monitors=())
    environment = {**docker_engine.environment, "DOCKER_HOST": daemon.host}
    own = DockerEngine(daemon.host, environment)
    copied(docker_engine, own, *(docker_image(name) for name in kind.images))
    stack = ContainerStack(
        Path(tempfile.mkdtemp(prefix="enova-s-")), kind.spec(free_ports()), docker=own
    )
    stacks.append(stack)
    yield stack
    stack.clean()
    stacks.remove(stack)
    shutil.rmtree(stack.folder)


def test_a_restarted_engine_has_every_container_back(alone: ContainerStack, daemon: Daemon) -> None:
    alone.apply()
    before, addresses = alone.in_rotation(SERVICE), inside(alone)
    with step("without the engine, diff says where none answers and what to do"):
        daemon.stop()
        told = alone.enova("diff", str(alone.file), expect=FAILED)
        assert daemon.host.removeprefix("unix://") in told.err, told
        assert "Start it" in told.err, told
    daemon.start()
    with step("the same replicas serve again, at the same addresses"):
        until("all are back", lambda: alone.in_rotation(SERVICE) == before, within_s=60)
        assert inside(alone) == addresses
        answers(alone)
    repaired(alone)

    stopped = sorted(before)[0]
    alone.docker.docker("stop", alone.container(stopped))
    with alone.reconciling():
        with step("restarted under a running reconciler, with one replica stopped before"):
            daemon.stop()
            daemon.start()
        with step("the others are back by themselves, the stopped one is replaced"):
            until(
                "all serve",
                lambda: (
                    len(serving := alone.in_rotation(SERVICE)) == COUNT and stopped not in serving
                ),
                within_s=90,
            )
            answers(alone)
    repaired(alone, without=stopped)
    with step("destroy leaves nothing"):
        alone.enova("destroy", alone.name, "--yes")
        assert alone.left() == []


def answers(stack: Stack) -> None:
    """A request is answered."""
    reply = ask_once(stack.url, Ask(SERVICE, KIND.tokens, stream=True))
    assert reply.kind == ANSWERED, reply


def repaired(stack: Stack, *, without: str = "") -> None:
    """As many replicas serve as should, not that one, and nothing is left to do."""
    with step("nothing is left to do"):
        serving = stack.in_rotation(SERVICE)
        assert len(serving) == COUNT
        assert without not in serving
        stack.enova("diff", str(stack.file), expect=OK)


def inside(stack: ContainerStack) -> dict[str, str]:
    """The address of every container in the inner network, by its name."""
    network = f"{stack.project}_inside"
    return {
        one["Name"]: one["NetworkSettings"]["Networks"][network]["IPAddress"]
        for one in stack.inspected()
    }
