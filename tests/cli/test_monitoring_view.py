"""The monitoring part as a person reads it."""

from __future__ import annotations

from enova.cli.views.monitoring import mon_check_lines, mon_status_lines
from enova.effects.sources.prometheus_api import AlertNow
from enova.stack.emptiness import Scraped
from enova.stack.observed import State
from enova.workflows.mon import GrafanaDoor, MonStatus, Part
from enova.workflows.mon_check import QUIET, Checked, Finding

ERROR = 'Get "http://x/metrics": dial tcp 127.0.0.1:1: connect: connection refused'
DOWN = Scraped("engines", "chat-replica-1-a", "chat/replica/1", "http://x/metrics", False, ERROR)
UP = Scraped("gateway", "gateway-a", "gateway", "http://y/metrics", True)
NEW = Scraped("enova", "reconciler", "reconciler", "http://z/metrics", None)


def test_status_shows_parts_targets_alerts_and_the_way_to_grafana() -> None:
    now = MonStatus(
        "shop",
        "prod",
        stopped=False,
        parts=(
            Part("alertmanager", "yes", State.EXITED, exit_reason="killed by signal 9"),
            Part("dcgm-exporter", "not here"),
            Part("grafana", "yes", State.SERVING, "http://127.0.0.1:32827"),
            Part("prometheus", "yes"),
            Part("tempo", "no"),
        ),
        targets=(DOWN, NEW, UP),
        alerts=(AlertNow("ReplicaDown", "firing", "ticket", "chat/replica/1", "it is down", "T"),),
        grafana=GrafanaDoor("http://127.0.0.1:32827", "admin", "file /state/grafana-password"),
    )
    assert [line.text for line in mon_status_lines(now)] == [
        "monitoring of shop (prod)",
        "  alertmanager   exited                                   killed by signal 9",
        "  dcgm-exporter  cannot run here",
        "  grafana        serving          http://127.0.0.1:32827",
        "  prometheus     does not run",
        "  tempo          off in the spec",
        "",
        "Prometheus reads:",
        "  engines  chat/replica/1  down          http://x/metrics  connection refused",
        "  enova    reconciler      not read yet  http://z/metrics",
        "  gateway  gateway         up            http://y/metrics",
        "",
        "Alerts:",
        "  firing  ticket  ReplicaDown  chat/replica/1  it is down",
        "",
        "Dashboards: http://127.0.0.1:32827, user admin, password in file /state/grafana-password",
    ]
    assert not now.well


def test_a_check_tells_what_is_wrong_before_what_is_empty() -> None:
    findings = (
        Finding("panel", "Fleet / Now / Arrivals", "enova:a", "data", 1),
        Finding("panel", "Fleet / Cost / Cost", "enova:b", "empty", reason="no price"),
        Finding("panel", "Fleet / Cost / Cost", "enova:c", "empty", reason="no price"),
        Finding("rule", "enova:b", "b", "empty", reason="no price"),
        Finding("rule", "enova:d", "d", "wrong", reason="refused: parse error"),
        Finding("rule", "enova:e", "e", "data", 2),
        Finding("alert", "GatewayDown", "up == 0", "empty", reason=QUIET),
    )
    checked = Checked("shop", "", findings, (DOWN,))
    assert [line.text for line in mon_check_lines(checked, verbose=False)] == [
        "chat/replica/1 (engines) does not answer: connection refused",
        "wrong, refused: parse error:",
        "  recording rule enova:d",
        "empty, no price:",
        "  Fleet / Cost / Cost",
        "  recording rule enova:b",
        "",
        "1 of 3 queries of panels have data",
        "1 of 3 recording rules have data",
        "0 of 1 alerts see something",
        "1 wrong.",
    ]
    verbose = [line.text for line in mon_check_lines(checked, verbose=True)]
    assert "data   1  panel  Fleet / Now / Arrivals" in verbose
    assert "wrong     rule   enova:d                 refused: parse error" in verbose
