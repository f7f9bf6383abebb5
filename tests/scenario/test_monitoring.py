"""Every panel, rule and alert has something behind it on a stack that works, or a named reason.

`enova mon check` is asked as a user would, on a running stack under load: real Envoy, Prometheus
and reconciler, emulated engines or real vLLM. GPUs are those of a page in DCGM's format, read by a
Prometheus beside the stack's own that reads all the rest too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from enova.base.digest import plain
from enova.effects.sources.prometheus_api import PrometheusApi
from enova.stack import monitoring
from enova.stack.render import monitors, prometheus
from enova.stack.render.monitors import MonitorPlaces
from enova.stack.watched import Watched
from enova.workflows.mon import applied_stack
from enova.workflows.mon_check import check
from enova.workflows.wiring import Surroundings, gather, open_named
from tests.effects.pages_server import serving
from tests.parts import dcgm, real
from tests.scenario.conftest import settle
from tests.scenario.kinds import FEW, FEW_CONTAINERS, Kind, real_engines
from tests.scenario.test_obligations import nothing_failed
from tests.scenario.world import FAILED, OK, REFUSED, Stack, free_ports, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(480)]

NO_GPU = "no DCGM exporter is part of this stack, so nothing is known of GPUs"
NO_PRICE = "the devices have no price (pool.prices)"
NO_RECONCILER = "the reconciler does not run"

SEEN = replace(
    FEW,
    name="seen",
    services={n: {**s, "goals": {"ttft": "2s", "e2e": "20s"}} for n, s in FEW.services.items()},
)


@pytest.fixture(scope="module", params=["emulated", pytest.param("vllm", marks=pytest.mark.vllm)])
def watched(request: pytest.FixtureRequest, make_stack: Callable[[Kind], Stack]) -> Stack:
    """A stack under a real Prometheus, up; its load is what its kind bears."""
    if request.param == "vllm":
        return settle(make_stack(real_engines(real.tiny_model(), real.vllm_binary())))
    return settle(make_stack(SEEN))


def test_every_panel_has_data_or_a_named_reason(watched: Stack, prometheus_binary: Path) -> None:
    stack = watched
    with (
        beside(stack, prometheus_binary) as second,
        stack.load(FEW.rate, tokens=FEW.tokens) as load,
    ):
        with stack.reconciling():
            with step("every panel has data, but those of GPUs and prices"):
                until_complete(lambda: checked(stack), within_s=150)
                found = checked(stack, expect=OK)
                assert found["well"] and not found["silent"]
                assert reasons(found, "panel") <= {NO_GPU, NO_PRICE}
                assert reasons(found, "rule") <= {NO_PRICE}
            with step("the GPU panels too, where a DCGM exporter is read"):
                until_complete(second.check, within_s=90)
                seen = second.check()
                of_gpus = [f for f in seen["findings"] if f["where"].startswith("GPU /")]
                assert {f["verdict"] for f in of_gpus} == {"data"}
                assert reasons(seen, "panel") <= {NO_PRICE}
        with step("with the reconciler stopped, its panels say so, and nothing is wrong"):
            until(
                "the reason is named",
                lambda: NO_RECONCILER in reasons(checked(stack), "panel"),
                within_s=60,
                every_s=2,
            )
            found = checked(stack, expect=OK)
            assert empty_of(found, NO_RECONCILER) == {
                "Fleet / Replicas / Wanted and starting",
                "Decisions / Counts / Wanted and starting",
                "Decisions / Counts / Last look of the reconciler",
            }
    nothing_failed(load)


def test_a_replica_that_is_down_is_named(watched: Stack) -> None:
    stack = settle(watched)
    (service,) = stack.services
    first, *others = stack.instances(service)

    with step("one of two: it is named, and the others are what panels show"):
        stack.kill(first)
        until("it is named", lambda: down(checked(stack)) == {first}, within_s=30, every_s=1)
        assert checked(stack, expect=OK)["well"]
    with step("all: what rests on engines is empty, wrong, and says which do not answer"):
        for instance in others:
            stack.kill(instance)
        until(
            "they are named",
            lambda: down(checked(stack)) == {first, *others},
            within_s=30,
            every_s=1,
        )
        found = until_wrong(stack)
        (reason,) = {
            f["reason"] for f in found["findings"] if f["where"].endswith("Running and waiting")
        }
        for slot in range(len(others) + 1):
            assert f"{service}/replica/{slot} does not answer: connection refused" in reason
    with step("status says so too, and exits with 0: the monitoring itself runs"):
        text = stack.enova("mon", "status", stack.name, expect=OK).out
        assert text.count(" down ") == len(others) + 1
    stack.apply()


@pytest.mark.parametrize("kind", [FEW, FEW_CONTAINERS], ids=["processes", "containers"])
def test_stopped_and_started_alone(kind: Kind, make_stack: Callable[[Kind], Stack]) -> None:
    stack = settle(make_stack(kind))
    before = stack.running()
    with stack.load(kind.rate, tokens=kind.tokens) as load, stack.reconciling():
        with step("stop"):
            stack.enova("mon", "stop", stack.name, "--yes", expect=OK)
            assert stack.components("monitoring-prometheus") == []
        with step("the reconciler looks on and leaves it stopped"):
            looks(stack, 3)
            assert stack.components("monitoring-prometheus") == []
            assert stack.plan()["actions"] == []
            stack.enova("mon", "check", stack.name, expect=REFUSED)
        with step("start"):
            rest = stack.running()
            stack.enova("mon", "start", stack.name, "--yes", expect=OK)
            assert len(stack.components("monitoring-prometheus")) == 1
        with step("everything is read again, the reconciler too"):
            until("all is up", lambda: up(stack) >= {"engines", "gateway", "enova"}, within_s=60)
        with step("nothing else was touched"):
            assert rest < before
            assert rest < stack.running()
    nothing_failed(load)


@dataclass(frozen=True)
class Second:
    """A Prometheus beside the stack's own."""

    url: str
    watched: Watched
    stack: str

    def check(self) -> dict[str, Any]:
        """As `enova mon check -o json` has it."""
        with PrometheusApi(self.url) as api:
            found = plain(check(api, self.watched, stack=self.stack))
        assert isinstance(found, dict)
        return found


@contextmanager
def beside(stack: Stack, program: Path) -> Iterator[Second]:
    """A Prometheus with the stack's own files that reads DCGM's page too, as if there were GPUs."""
    here = open_named(Surroundings(stack.environment), stack.name, env="")
    resource = applied_stack(here, gather(here)).monitor(monitoring.PROMETHEUS)
    assert resource is not None and resource.watched is not None
    watching = replace(resource, watched=replace(resource.watched, gpus=True))
    assert watching.watched is not None
    folder, own = stack.folder / "second", stack.state / "run" / "monitoring" / "targets"
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    for job in prometheus.JOBS:
        # Links: what comes and goes there does here. A link into a file that is replaced follows.
        link = folder / "targets" / f"{job}.json"
        if not link.is_symlink() and job != "dcgm-exporter":
            link.symlink_to(own / link.name)
    with serving(lambda *_: (200, dcgm.page())) as gpus:
        target = prometheus.Target(gpus.endpoint, "dcgm", "monitoring/dcgm-exporter")
        text = json.dumps(prometheus.targets(stack.name, [target]))
        (folder / "targets" / "dcgm-exporter.json").write_text(text)
        places = MonitorPlaces(
            stack=stack.name,
            config=str(folder),
            data=str(folder / "data"),
            targets=str(folder / "targets"),
            listen=f"127.0.0.1:{next(free_ports())}",
        )
        for name, content in monitors.files(watching, places).items():
            (folder / name).write_text(content)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                monitors.command(watching, str(program), places), stdout=log, stderr=log
            )
            try:
                yield Second(f"http://{places.listen}", watching.watched, stack.name)
            finally:
                process.terminate()
                process.wait(timeout=30)


def checked(stack: Stack, *, expect: int | None = None) -> dict[str, Any]:
    """`enova mon check -o json`."""
    found: dict[str, Any] = json.loads(
        stack.enova("mon", "check", stack.name, "-o", "json", expect=expect).out
    )
    return found


def until_complete(ask: Callable[[], dict[str, Any]], *, within_s: float) -> None:
    """Wait until nothing is empty that has data a while later. Says what still is."""
    left: set[str] = set()

    def complete() -> bool:
        found = ask()
        left.clear()
        left.update((reasons(found, "panel") | reasons(found, "rule")) - {NO_GPU, NO_PRICE})
        return not left

    try:
        until("all panels and rules have data", complete, within_s=within_s, every_s=2)
    except AssertionError as error:
        error.add_note(f"empty: {sorted(left)}")
        raise


def reasons(found: dict[str, Any], kind: str) -> set[str]:
    return {f["reason"] for f in found["findings"] if f["kind"] == kind and f["verdict"] != "data"}


def empty_of(found: dict[str, Any], reason: str) -> set[str]:
    """The panels that are empty for a reason."""
    return {f["where"] for f in found["findings"] if f["kind"] == "panel" and f["reason"] == reason}


def down(found: dict[str, Any]) -> set[str]:
    return {target["instance"] for target in found["silent"]}


def until_wrong(stack: Stack) -> dict[str, Any]:
    """What is found once no panel shows what the engines last said."""
    until(
        "the panels are empty",
        lambda: any(
            f["verdict"] == "wrong" and f["where"].endswith("Running and waiting")
            for f in checked(stack)["findings"]
        ),
        within_s=60,
        every_s=1,
    )
    return checked(stack, expect=FAILED)


def up(stack: Stack) -> set[str]:
    """Jobs of which something is read."""
    found = json.loads(stack.enova("mon", "status", stack.name, "-o", "json", expect=None).out)
    return {target["job"] for target in found["targets"] if target["up"]}


def looks(stack: Stack, count: int) -> None:
    """Wait until the reconciler has looked so many times more."""
    for _ in range(count):
        before = stack.looked_at()
        until("it looks", lambda before=before: stack.looked_at() > before, within_s=30)
