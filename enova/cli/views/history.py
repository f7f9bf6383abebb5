"""Earlier applies as a table, newest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from enova.cli.views.line import Line, columns
from enova.effects.state.store import Applied


def history_lines(applies: Sequence[Applied]) -> list[Line]:
    """Serial, time and services of each apply; the first is the one in force."""
    rows = [("apply", "when", "services", "")]
    for index, past in enumerate(applies):
        when = datetime.fromtimestamp(past.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        document = past.record.document or {}
        services = document.get("services")
        names = ", ".join(sorted(services)) if isinstance(services, Mapping) else ""
        rows.append((str(past.serial), when, names, "now" if index == 0 else ""))
    return [Line(text) for text in columns(rows)] if applies else [Line("Nothing was applied yet.")]
