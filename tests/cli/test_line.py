"""When colour is used, and that meaning never needs it."""

from __future__ import annotations

import io

import click
import pytest

from enova.cli.main import main
from enova.cli.views.line import Line, colour_wanted, columns, put


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colour(environment: dict[str, str], terminal: bool, wanted: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert colour_wanted(stream, environment) is wanted


def test_the_option_wins() -> None:
    with click.Context(main) as context:
        context.color = True
        assert colour_wanted(io.StringIO(), {"NO_COLOR": "1"})
        context.color = False
        assert not colour_wanted(Terminal(), {"FORCE_COLOR": "1"})


def test_text_is_the_same_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, coloured = io.StringIO(), Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines = [Line("done", "green"), Line("total", bold=True)]
    put(lines, plain)
    put(lines, coloured)
    assert plain.getvalue() == "done\ntotal\n"
    assert click.unstyle(coloured.getvalue()) == plain.getvalue()
    assert coloured.getvalue() != plain.getvalue()


def test_columns_align_and_leave_nothing_behind() -> None:
    assert columns([("a", "10", "x"), ("bbb", "9", "")], right=[1]) == ["a    10  x", "bbb   9"]
