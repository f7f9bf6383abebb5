"""Exceptions become exit codes and text on standard error in one place."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from enova.base.errors import (
    ActionFailed,
    Bug,
    Infeasible,
    Refused,
    SpecError,
    Unreachable,
)
from enova.base.problems import Problem
from enova.cli.exits import code_of


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SpecError([Problem("E107", "a duration is needed")]), 1, "1 problem. Nothing was changed"),
        (Unreachable("gpu-a did not answer"), 1, "gpu-a did not answer"),
        (ActionFailed("chat/replica/0", "start", "no room", ("the log",)), 1, "    the log"),
        (Infeasible("chat", "Memory binds.", ("one more GPU",)), 3, "  - one more GPU"),
        (Refused("stale"), 4, "stale"),
        (click.UsageError("no such thing"), 64, "Error: no such thing"),
        (click.BadParameter("soon"), 64, "soon"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (click.Abort(), 130, "Interrupted."),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(raising(error), []) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), Bug("the graph has a ring")])
def test_a_bug_leaves_a_report(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert code_of(raising(error), []) == 1
    said = capsys.readouterr().err
    (report,) = tmp_path.iterdir()
    assert f"Report: {report}" in said
    assert str(error) in report.read_text()
    assert "Traceback" in report.read_text()


def test_what_a_verb_returns_is_the_code() -> None:
    @click.command()
    def command() -> int:
        return 2

    assert code_of(command, []) == 2
