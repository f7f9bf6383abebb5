"""The list of verbs: it says what the verbs themselves say, and each verb answers."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest

import enova.cli.commands
from enova.cli.exits import USAGE, code_of
from enova.cli.main import VERBS, main


def command_of(verb: str) -> click.Command:
    command = importlib.import_module(f"enova.cli.commands.{verb}").command
    assert isinstance(command, click.Command)
    return command


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_says_what_the_verb_says(verb: str) -> None:
    command = command_of(verb)
    assert command.name == verb
    assert command.get_short_help_str(limit=200) == VERBS[verb]


def test_every_file_of_a_verb_is_in_the_list() -> None:
    folder = Path(enova.cli.commands.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "emulator"])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(main, [verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: enova {verb}")


def test_flags_mean_the_same_in_all_verbs() -> None:
    """A flag's spelling has one meaning: the same destination and the same kind of value."""
    known: dict[str, tuple[str, str]] = {}
    for verb in VERBS:
        for parameter in command_of(verb).params:
            for flag in parameter.opts if isinstance(parameter, click.Option) else ():
                if flag in ("--interval",):  # its default differs, its meaning does not
                    continue
                meaning = (parameter.name or "", type(parameter.type).__name__)
                assert known.setdefault(flag, meaning) == meaning, f"{flag} of {verb}"


def test_a_verb_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(main, ["destory"]) == USAGE
    assert 'Did you mean "destroy"?' in capsys.readouterr().err
