"""Every problem code that the package can raise has a page for `enova explain CODE`.

A code may reach `Problem` through a table or an argument, so every text in the source that looks
like a code counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from enova.spec.codes import CODES
from tests.architecture.source import Module, module_from, modules

CODE = re.compile(r"[EN]\d{3}")
HOME_OF_PAGES = "enova.spec.pages"


def codes_of(module: Module) -> dict[str, str]:
    """The codes in a module's texts, each with the place of its first use."""
    texts = [node for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
    found: dict[str, str] = {}
    for node in texts:
        if isinstance(node.value, str) and CODE.fullmatch(node.value):
            found.setdefault(node.value, module.at(node))
    return found


def without_page(sources: Sequence[Module]) -> list[str]:
    return [
        f"{place} raises {code}, which has no page"
        for module in sources
        if module.name != HOME_OF_PAGES
        for code, place in codes_of(module).items()
        if code not in CODES
    ]


def test_every_code_that_is_raised_has_a_page() -> None:
    assert without_page(modules()) == []


def test_codes_are_found_in_more_than_one_folder() -> None:
    folders = {module.folder for module in modules() if codes_of(module)}
    assert {"spec", "capacity"} <= folders


def test_a_code_without_a_page_is_seen() -> None:
    direct = module_from('x = [Problem("E999", "no")]', "enova.capacity.sample")
    table = module_from('KINDS = {"missing": "E998"}', "enova.stack.sample")
    assert [line.split(" raises ")[1][:4] for line in without_page([direct, table])] == [
        "E999",
        "E998",
    ]
