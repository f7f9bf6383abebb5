"""What changes nothing that runs is still a change: the reconciler goes by the record."""

from __future__ import annotations

import pytest

from enova.base.errors import Refused
from tests.workflows.rehearsal import CHAT, Rehearsal


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("max: 6", "max: 8", "scale.max"),
        ("hold: 0s", "hold: 60s", "scale.hold"),
        ("peak: 2/s", "peak: 3/s", "traffic.peak"),
        ("scale:", "goals: {ttft: 2s}\n    scale:", "goals.ttft.p95"),
        ("scale:", "protect: true\n    scale:", "protect"),
        ("scale:", "rollout: {max_unavailable: 1}\n    scale:", "rollout.max_unavailable"),
    ],
)
def test_a_setting_of_the_spec_reaches_the_record(
    web: Rehearsal, old: str, new: str, path: str
) -> None:
    web.apply(CHAT)
    ran = {i.id for i in web.driver.observe().instances}
    web.write(CHAT.replace(old, new))
    made = web.plan().plan
    assert not made.is_empty
    service, *told = made.changes
    assert (service.address, service.reason.value) == ("chat", "spec changed")
    assert path in [field.path for field in service.fields]
    # Rules and alerts follow it.
    assert {(c.address, c.symbol.value) for c in told} <= {("monitoring/prometheus", "~")}
    assert {action.do.kind for action in made.actions} <= {"change-monitor"}
    web.apply()
    assert {i.id for i in web.driver.observe().instances} == ran, "nothing that runs is touched"
    assert web.state.read().document == web.plan().spec.document
    assert web.plan().plan.is_empty


def test_the_pool_reaches_the_record(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.write(CHAT + "pool: {on_lost_host: replace}\n")
    assert [c.address for c in web.plan().plan.changes] == ["pool"]
    web.apply()
    assert web.plan().plan.is_empty


def test_the_reconciler_scales_within_bounds_applied_while_it_runs(web: Rehearsal) -> None:
    web.apply(CHAT)
    here = web.here()
    web.signals.rates["chat"] = 10_000.0
    web.tick(here)
    assert len(web.serving()) == 6
    web.apply(CHAT.replace("max: 6", "max: 8"))
    web.tick(here)
    assert len(web.serving()) == 8


def test_protection_is_lifted_by_applying_a_spec_without_it(web: Rehearsal) -> None:
    web.apply(CHAT.replace("scale:", "protect: true\n    scale:"))
    with pytest.raises(Refused, match="protected"):
        web.destroy()
    web.apply(CHAT)
    web.destroy()
    assert not web.driver.observe().instances
