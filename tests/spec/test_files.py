"""Which files make up a stack."""

from __future__ import annotations

import pytest

from enova.base.errors import SpecError
from enova.spec.files import group_files, overlay_name, select_files

NAMES = [
    "chat.enova.yaml",
    "chat.prod.enova.yaml",
    "chat.dev.enova.yaml",
    "code.enova.yml",
    ".hidden.enova.yaml",
    "notes.yaml",
    "enova.lock",
]


def test_a_folder_holds_its_base_files() -> None:
    assert select_files(NAMES) == (("chat.enova.yaml",), ("code.enova.yml",))


def test_an_environment_adds_the_overlay_where_there_is_one() -> None:
    assert select_files(NAMES, "prod") == (
        ("chat.enova.yaml", "chat.prod.enova.yaml"),
        ("code.enova.yml",),
    )


def test_a_file_named_by_hand_may_be_called_anything() -> None:
    assert group_files(["chat.prod.enova.yaml"], NAMES) == (("chat.prod.enova.yaml",),)
    assert group_files(["spec.yaml"], ["spec.yaml", "spec.prod.yaml"], "prod") == (
        ("spec.yaml", "spec.prod.yaml"),
    )


@pytest.mark.parametrize(
    ("name", "overlay"),
    [
        ("chat.enova.yaml", "chat.prod.enova.yaml"),
        ("dir.x/chat.enova.yml", "dir.x/chat.prod.enova.yml"),
        ("chat.yaml", "chat.prod.yaml"),
        ("chat", "chat.prod"),
    ],
)
def test_the_overlay_stands_beside_its_base(name: str, overlay: str) -> None:
    assert overlay_name(name, "prod") == overlay


@pytest.mark.parametrize(
    ("names", "env", "code"),
    [
        (["notes.yaml"], None, "E130"),
        ([".enova.yaml"], None, "E130"),
        (NAMES, "staging", "E131"),
        (NAMES, "../x", "E131"),
        (NAMES, "", "E131"),
    ],
)
def test_nothing_to_read_is_a_problem(names: list[str], env: str | None, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        select_files(names, env)
    assert [problem.code for problem in caught.value.problems] == [code]
