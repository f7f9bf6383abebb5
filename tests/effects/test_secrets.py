"""Secrets by reference: read when needed, never told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from enova.base.errors import Refused
from enova.base.secret import SecretRef
from enova.effects.sources import secrets

CANARY = "canary-81b2"


def test_each_kind_of_reference_is_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{CANARY}\n")
    for reference, environment in (
        (SecretRef(env="TOKEN"), {"TOKEN": CANARY}),
        (SecretRef(file=str(file)), {}),
        (SecretRef(command=(sys.executable, "-c", f"print({CANARY!r})")), dict(os.environ)),
    ):
        secret = secrets.resolve(reference, environment)
        assert secret.reveal() == CANARY
        assert CANARY not in f"{secret} {secret!r}"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (SecretRef(env="NOT_THERE"), "environment variable NOT_THERE is not set"),
        (SecretRef(env="EMPTY"), "is empty"),
        (SecretRef(file="/nowhere/token"), "file /nowhere/token cannot be read: No such file"),
        (SecretRef(command=("/nowhere/tool",)), "command /nowhere/tool failed: No such file"),
        (
            SecretRef(command=(sys.executable, "-c", f"print({CANARY!r}); exit(3)")),
            "exited with code 3",
        ),
        (SecretRef(), "neither env, file nor command"),
    ],
)
def test_what_cannot_be_read_is_named_without_its_content(reference: SecretRef, words: str) -> None:
    with pytest.raises(Refused) as caught:
        secrets.resolve(reference, {"EMPTY": "\n"})
    assert words in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_file_that_is_no_text_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(CANARY.encode() + b"\xff")
    with pytest.raises(Refused) as caught:
        secrets.resolve(SecretRef(file=str(file)), {})
    assert CANARY not in str(caught.value)
