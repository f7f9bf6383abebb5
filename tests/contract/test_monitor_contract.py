"""What every target must do with the programs of monitoring. One obligation a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enova.base.errors import ActionFailed
from enova.stack import monitoring
from enova.stack.actions import ChangeMonitor, RemoveStack, StartMonitor, StopMonitor
from enova.stack.observed import Component, State
from enova.stack.resources import MonitorResource
from enova.stack.watched import Watched, WatchedService
from tests.contract.conftest import FakeTarget, ProcessTarget, Target
from tests.parts import real

PARTS = {
    monitoring.PROMETHEUS: "prometheus",
    monitoring.ALERTMANAGER: "alertmanager",
    monitoring.NODE_EXPORTER: "node_exporter",
}
SETTINGS = (("retention", 3600.0), ("scrape_interval", 1.0))
RESOURCES = (
    MonitorResource(monitoring.PROMETHEUS, settings=SETTINGS, watched=Watched((), 1.0)),
    MonitorResource(monitoring.ALERTMANAGER),
    MonitorResource(monitoring.NODE_EXPORTER),
)
PROMETHEUS = RESOURCES[0]
MORE = replace(PROMETHEUS, watched=Watched((WatchedService("chat", "vllm", "0.32.0", 0.999),), 1.0))


@pytest.fixture
def target(target: Target) -> Target:
    """One that can run the three that need neither GPUs nor a container."""
    if isinstance(target, FakeTarget):
        with target.driver.edit() as world:
            world.monitors = sorted(PARTS)
    if isinstance(target, ProcessTarget):
        programs = {name: real.part_binary(part) for name, part in PARTS.items()}
        target.world.programs = replace(target.world.programs, monitors=programs)
        target.world.driver = target.another()
    assert set(PARTS) <= target.driver.runs_monitors()
    return target


def start(target: Target, resource: MonitorResource) -> Component:
    target.do(resource.address, StartMonitor(name(resource), resource), 60.0)
    return seen(target, resource)


def name(resource: MonitorResource) -> str:
    return f"{resource.address.replace('/', '-')}-aaaaaa"


def seen(target: Target, resource: MonitorResource) -> Component:
    (found,) = (c for c in target.seen().components if c.address == resource.address)
    return found


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: one.name)
def test_a_monitor_lives_from_start_to_stop(target: Target, resource: MonitorResource) -> None:
    found = start(target, resource)
    assert (found.id, found.state) == (name(resource), State.SERVING)
    assert (found.digest, found.fields) == (resource.digest, resource.fields())
    assert found.endpoint is not None
    assert seen_by_another(target) == (found,)
    assert start(target, resource) == found, "doing it again is harmless"
    with pytest.raises(ActionFailed, match="another configuration"):
        start(target, replace(resource, port=1))
    with pytest.raises(ActionFailed, match="still run"):
        target.do("stack", RemoveStack())
    for _ in range(2):
        target.do(resource.address, StopMonitor(name(resource)))
        assert target.seen().components == ()
    target.do("stack", RemoveStack())
    assert target.left() == []


def seen_by_another(target: Target) -> tuple[Component, ...]:
    return target.another().observe().components


def test_a_monitor_takes_over_what_it_can_while_it_runs(target: Target) -> None:
    before = start(target, PROMETHEUS)
    for _ in range(2):
        target.do(PROMETHEUS.address, ChangeMonitor(name(PROMETHEUS), MORE))
        after = seen(target, PROMETHEUS)
        assert (after.digest, after.fields) == (MORE.digest, MORE.fields())
        assert (after.id, after.endpoint, after.state) == (
            before.id,
            before.endpoint,
            State.SERVING,
        )


def test_what_does_not_run_cannot_be_changed(target: Target) -> None:
    with pytest.raises(ActionFailed, match="does not run"):
        target.do(PROMETHEUS.address, ChangeMonitor(name(PROMETHEUS), MORE))
