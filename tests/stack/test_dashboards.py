"""Dashboards: every signal is on one, in its own unit, and nothing overlaps."""

from __future__ import annotations

from itertools import combinations
from typing import Any, cast, get_args

import pytest

from enova.policy.signals import MEANINGS, Unit
from enova.stack.dashboards import pages
from enova.stack.panels import VARIABLES, Dashboard, Panel, everything
from enova.stack.render import grafana

PAGES = {page.uid: page for page in pages()}
NOT_SHOWN = {"recent_arrival_rate", "goal_budget"}
"""The first is the reconciler's own, the second is one less the target, which is shown."""


def panels_of(page: Dashboard) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], grafana.dashboard_document(page)["panels"])


def test_every_signal_is_on_a_dashboard() -> None:
    shown = {s for page in pages() for _, panel in page.panels() for s in panel.signals}
    assert set(MEANINGS) - shown == NOT_SHOWN


def test_every_unit_has_a_name_in_grafana() -> None:
    assert set(grafana.UNITS) == set(get_args(Unit))


def test_a_share_is_shown_as_a_share_and_never_multiplied() -> None:
    shares = 0
    for page in pages():
        drawn = [p for p in panels_of(page) if p["type"] != "row"]
        for (_, panel), document in zip(page.panels(), drawn, strict=True):
            unit = document["fieldConfig"]["defaults"]["unit"]
            assert unit == grafana.UNITS[panel.unit]
            if panel.unit == "share":
                shares += 1
                assert unit == "percentunit"
                assert all("100" not in target["expr"] for target in document["targets"])
    assert shares > 10


def test_signals_of_different_units_do_not_share_a_panel() -> None:
    with pytest.raises(ValueError, match="one unit"):
        Panel("both", ("arrival_rate", "kv_usage"), "engines").unit  # noqa: B018


@pytest.mark.parametrize("uid", sorted(PAGES))
def test_panels_do_not_overlap_and_fit_the_grid(uid: str) -> None:
    places = [panel["gridPos"] for panel in panels_of(PAGES[uid])]
    for place in places:
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("uid", sorted(PAGES))
def test_every_variable_of_a_query_can_be_chosen(uid: str) -> None:
    document = cast(dict[str, Any], grafana.dashboard_document(PAGES[uid]))
    chosen = {variable["name"] for variable in document["templating"]["list"]}
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            for label in {label for labels in VARIABLES.values() for label in labels}:
                assert f'"${label}"' not in target["expr"] or label in chosen


def test_opened_anew_a_dashboard_shows_everything() -> None:
    text, legend = next(Panel("a", ("replica_running",), "engines").queries())
    assert text == 'enova:replica_running{service=~"$service", address=~"$address"}'
    assert everything(text) == 'enova:replica_running{service=~".*", address=~".*"}'
    assert legend == "{{address}}"


def test_panels_say_what_they_show() -> None:
    for page in pages():
        assert page.text
        for _, panel in page.panels():
            assert panel.text.endswith("."), panel.title


def test_sources_are_there_as_far_as_they_run() -> None:
    files = grafana.provisioning(
        prometheus_url="http://prometheus:9090",
        tempo_url=None,
        alertmanager_url="http://alertmanager:9093",
        dashboards_dir="/enova/dashboards",
    )
    sources = cast(list[dict[str, Any]], files["datasources/enova.yaml"]["datasources"])
    assert [source["uid"] for source in sources] == [
        grafana.PROMETHEUS_UID,
        grafana.ALERTMANAGER_UID,
    ]
