"""What a plan says of monitors that the target cannot run."""

from __future__ import annotations

import pytest

from enova.base.errors import Refused
from tests.workflows.rehearsal import CHAT, Rehearsal


@pytest.mark.parametrize(
    ("section", "why"),
    [
        (
            "{alertmanager: on}",
            r"monitoring\.alertmanager is on, but alertmanager or prom",
        ),
        ("{node: true}", r"monitoring\.node is on, but node_exporter or .* not on PATH\. Install"),
        ("{grafana: {enabled: on}}", r"does not run it\. Use pool\.target: compose, or set"),
    ],
)
def test_what_must_run_and_cannot_is_refused_with_what_to_do(
    web: Rehearsal, section: str, why: str
) -> None:
    web.write(f"{CHAT}monitoring: {section}\n")
    with pytest.raises(Refused, match=why):
        web.plan()


def test_a_missing_image_is_named(web: Rehearsal) -> None:
    web.write(f"{CHAT}pool: {{target: compose}}\nmonitoring: {{grafana: on}}\n")
    with pytest.raises(Refused, match=r"grafana/grafana:\S+ is neither here nor"):
        web.plan()


def test_what_goes_without_is_said_once(web: Rehearsal) -> None:
    web.write(f"{CHAT}monitoring: {{grafana: off, node: off}}\n")
    (note,) = [line for line in web.plan().plan.notes if "monitoring" in line]
    assert "without alertmanager, dcgm-exporter, otel-collector, tempo" in note
    web.apply()
    assert not [line for line in web.plan().plan.notes if "monitoring" in line]


def test_a_monitor_that_comes_later_is_started_and_one_switched_off_is_stopped(
    web: Rehearsal,
) -> None:
    web.apply(CHAT)
    with web.driver.edit() as world:
        world.monitors = ["alertmanager", "prometheus"]
    made = web.plan().plan
    assert [(c.address, c.symbol.value) for c in made.changes] == [("monitoring/alertmanager", "+")]
    web.apply()
    web.apply(f"{CHAT}monitoring: {{prometheus: off}}\n")
    addresses = {c.address for c in web.driver.observe().components}
    assert addresses == {"gateway", "monitoring/alertmanager"}
