"""What a dashboard is made of, before it has a form: signals in panels, panels in rows.

In: signals of ``policy.signals``, by the name under which ``stack.recording`` records them. Out:
values that ``stack.render.grafana`` draws and ``enova mon check`` asks one by one. A panel's unit
is its signals' own; nothing is rescaled in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from enova.policy.signals import MEANINGS, Of, Unit
from enova.stack import recording

Kind = Literal["timeseries", "stat"]

Needs = Literal["engines", "gateway", "gpus", "reconciler"]
"""What must be read for a panel to have something to show."""

VARIABLES: Mapping[Of, tuple[str, ...]] = {
    "service": ("service",),
    "goal": ("service",),
    "replica": ("service", "address"),
    "gpu": ("Hostname", "gpu"),
    "stack": (),
}
"""Labels by which signals can be narrowed down; each is a variable of the dashboards."""

LEGENDS: Mapping[Of, str] = {
    "service": "{{service}}",
    "goal": "{{service}} {{goal}}",
    "replica": "{{address}}",
    "gpu": "{{Hostname}} gpu {{gpu}}",
    "stack": "",
}


@dataclass(frozen=True)
class Panel:
    """One picture of one signal, or of several with the same unit.

    ``empty_means``: what it says when there is nothing to show though everything is read.
    """

    title: str
    signals: tuple[str, ...]
    needs: Needs
    text: str = ""
    kind: Kind = "timeseries"
    empty_means: str = ""

    @property
    def unit(self) -> Unit:
        """The signals' unit. Raises ValueError when they have not the same."""
        units = {MEANINGS[signal].unit for signal in self.signals}
        if len(units) != 1:
            raise ValueError(f"{self.title}: signals of one panel have one unit, not {units}")
        return units.pop()

    def queries(self) -> Iterator[tuple[str, str]]:
        """PromQL and legend of each signal. ``$service`` and the like are the dashboard's."""
        several = len(self.signals) > 1
        for signal in self.signals:
            of = MEANINGS[signal].of
            labels = ", ".join(f'{label}=~"${label}"' for label in VARIABLES[of])
            legend = LEGENDS[of]
            name = signal.replace("_", " ")
            yield (
                recording.series(signal) + (f"{{{labels}}}" if labels else ""),
                f"{legend} {name}".strip() if several or not legend else legend,
            )


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    text: str
    rows: tuple[Row, ...]

    def panels(self) -> Iterator[tuple[Row, Panel]]:
        """Every panel with its row, in order."""
        for row in self.rows:
            for panel in row.panels:
                yield row, panel

    def variables(self) -> dict[str, str]:
        """The labels its panels are narrowed down by, each with a series that has it."""
        return {
            label: recording.series(signal)
            for _, panel in self.panels()
            for signal in panel.signals
            for label in VARIABLES[MEANINGS[signal].of]
        }


def everything(query: str) -> str:
    """A query with each variable standing for all of its values, as a dashboard opens."""
    for labels in VARIABLES.values():
        for label in labels:
            query = query.replace(f'"${label}"', '".*"')
    return query
