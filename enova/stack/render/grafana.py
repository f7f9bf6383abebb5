"""Dashboards as Grafana reads them, and the files that provision Grafana with them.

In: dashboards of ``stack.panels``. Out: documents the caller dumps as JSON (which is YAML too).
The layout is computed, and every panel's data source is the stack's own Prometheus.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from enova.policy.signals import Unit
from enova.stack import recording
from enova.stack.panels import Dashboard, Panel

Document = dict[str, object]

PROMETHEUS_UID = "enova-prometheus"
TEMPO_UID = "enova-tempo"
ALERTMANAGER_UID = "enova-alertmanager"

UNITS: Mapping[Unit, str] = {
    "1/s": "cps",
    "USD": "currencyUSD",
    "USD/h": "currencyUSD",
    "bytes": "bytes",
    "bytes/s": "Bps",
    "celsius": "celsius",
    "code": "none",
    "count": "none",
    "hertz": "hertz",
    "requests": "none",
    "requests/s": "reqps",
    "seconds": "s",
    "share": "percentunit",
    "steps/s": "suffix: steps/s",
    "times": "suffix: x",
    "tokens/s": "suffix: tok/s",
    "watts": "watt",
}
"""Grafana's name of each unit of ``policy.signals``. ``percentunit`` takes 0 to 1 and shows
percent: nothing is multiplied before."""

_DECISIONS = f"changes({recording.series('replicas_wanted')}[1m]) > 0"

_PANEL_WIDTH = 8
_PANEL_HEIGHT = 8
_STAT_WIDTH = 4
_STAT_HEIGHT = 4
_GRID = 24


def dashboard_document(page: Dashboard) -> Document:
    """The JSON model of one dashboard.

    Raises ValueError for a panel whose signals have not one unit.
    """
    made = (
        builders.Dashboard(page.title)
        .uid(page.uid)
        .description(page.text)
        .tags(["enova"])
        .readonly()
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    )
    for label, series in page.variables().items():
        made = made.with_variable(_variable(label, series))
    made = made.annotation(
        builders.AnnotationQuery()
        .name("decisions")
        .datasource(_source())
        .enable(True)
        .icon_color("purple")
        .expr(_DECISIONS)
    )
    number = 0
    y = 0
    for row in page.rows:
        number += 1
        heading = builders.Row(row.title).id(number)
        made = made.with_row(heading.grid_pos(dashboard.GridPos(h=1, w=_GRID, x=0, y=y)))
        y += 1
        x = tallest = 0
        for panel in row.panels:
            number += 1
            width, height = _size(panel)
            if x + width > _GRID:
                x, y, tallest = 0, y + tallest, 0
            place = dashboard.GridPos(h=height, w=width, x=x, y=y)
            made = made.with_panel(_panel(panel, number, place))
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return cast(Document, json.loads(JSONEncoder(sort_keys=True).encode(made.build())))


def provisioning(
    *, prometheus_url: str, tempo_url: str | None, alertmanager_url: str | None, dashboards_dir: str
) -> dict[str, Document]:
    """The files below Grafana's ``provisioning`` folder, by relative path.

    Dashboards are reread every 10 s, so a changed file needs no restart.
    """
    sources: list[Document] = [
        {
            "name": "Prometheus",
            "uid": PROMETHEUS_UID,
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus_url,
            "isDefault": True,
            "editable": False,
            "jsonData": {"httpMethod": "POST"},
        }
    ]
    if tempo_url is not None:
        sources.append(
            {
                "name": "Tempo",
                "uid": TEMPO_UID,
                "type": "tempo",
                "access": "proxy",
                "url": tempo_url,
                "editable": False,
                "jsonData": {"serviceMap": {"datasourceUid": PROMETHEUS_UID}},
            }
        )
    if alertmanager_url is not None:
        sources.append(
            {
                "name": "Alertmanager",
                "uid": ALERTMANAGER_UID,
                "type": "alertmanager",
                "access": "proxy",
                "url": alertmanager_url,
                "editable": False,
                "jsonData": {"implementation": "prometheus", "handleGrafanaManagedAlerts": False},
            }
        )
    return {
        "datasources/enova.yaml": {"apiVersion": 1, "prune": True, "datasources": sources},
        "dashboards/enova.yaml": {
            "apiVersion": 1,
            "providers": [
                {
                    "name": "enova",
                    "folder": "enova",
                    "type": "file",
                    "disableDeletion": True,
                    "allowUiUpdates": False,
                    "updateIntervalSeconds": 10,
                    "options": {"path": dashboards_dir},
                }
            ],
        },
    }


def dashboard_files(pages: Iterable[Dashboard]) -> dict[str, Document]:
    """One file a dashboard, by name."""
    return {f"{page.uid}.json": dashboard_document(page) for page in pages}


def _source() -> dashboard.DataSourceRef:
    return dashboard.DataSourceRef(type_val="prometheus", uid=PROMETHEUS_UID)


def _variable(label: str, series: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(label)
        .label(label)
        .datasource(_source())
        .query(f"label_values({series}, {label})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _size(panel: Panel) -> tuple[int, int]:
    if panel.kind == "stat":
        return _STAT_WIDTH, _STAT_HEIGHT
    return _PANEL_WIDTH, _PANEL_HEIGHT


def _panel(panel: Panel, number: int, place: dashboard.GridPos) -> timeseries.Panel | stat.Panel:
    made: timeseries.Panel | stat.Panel
    match panel.kind:
        case "timeseries":
            made = (
                timeseries.Panel()
                .fill_opacity(10)
                .line_width(1)
                .show_points(common.VisibilityMode.NEVER)
                .legend(
                    common_builders.VizLegendOptions()
                    .display_mode(common.LegendDisplayMode.LIST)
                    .placement(common.LegendPlacement.BOTTOM)
                    .show_legend(True)
                )
                .min(0)
            )
        case "stat":
            made = stat.Panel().reduce_options(
                common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
            )
    text = f"{panel.text} {panel.empty_means}".strip()
    made = (
        made.id(number)
        .title(panel.title)
        .description(text)
        .datasource(_source())
        .unit(UNITS[panel.unit])
        .grid_pos(place)
    )
    for letter, (text, legend) in zip("ABCDEFGH", panel.queries(), strict=False):
        made = made.with_target(_target(text, legend, letter, panel))
    return made


def _target(text: str, legend: str, letter: str, panel: Panel) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(text).legend_format(legend).ref_id(letter)
    made = made.datasource(_source())
    return made.range() if panel.kind == "timeseries" else made.instant()
