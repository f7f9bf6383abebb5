"""Consent: a person is asked on standard error, a script without ``--yes`` is refused."""

from __future__ import annotations

import io
import sys

import pytest

from enova.base.errors import Refused
from enova.cli.prompt import consent, consent_by_name, need_consent_beforehand


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(Refused, match="--yes"):
        need_consent_beforehand(stdin_spec=False, output="text")


@pytest.mark.parametrize(("stdin_spec", "output"), [(True, "text"), (False, "json")])
def test_no_question_where_its_answer_has_no_place(
    monkeypatch: pytest.MonkeyPatch, stdin_spec: bool, output: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(""))
    with pytest.raises(Refused, match="--yes"):
        need_consent_beforehand(stdin_spec=stdin_spec, output=output)


@pytest.mark.parametrize("answer", ["n", "", "no"])
def test_no_means_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(f"{answer}\n"))
    with pytest.raises(Refused, match="no consent"):
        consent("Apply this?")


def test_yes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("y\n"))
    consent("Apply this?")
    assert capsys.readouterr().out == ""


def test_the_name_must_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Typed("shop\n"))
    consent_by_name("shop", "Type shop")
    monkeypatch.setattr(sys, "stdin", Typed("y\n"))
    with pytest.raises(Refused, match='"y" is not "shop"'):
        consent_by_name("shop", "Type shop")
