"""Names say what a thing is, and every module says its place in its first lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.source import Module, module_from, modules, words

EMPTY_WORDS = words(
    """
    common handler handlers helper helpers manager managers misc stuff util utils utilities
    """
)
"""Words that name no thing: what is behind them could be anything, and soon is everything."""

THEIR_WORDS = ("connection_manager",)
"""Names of other programs' things, kept as they are there: Envoy's HTTP connection manager."""


def words_of(name: str) -> set[str]:
    """`GatewayManager2` and `gateway_manager` are both gateway and manager."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    for theirs in THEIR_WORDS:
        spaced = spaced.replace(theirs, "")
    return {re.sub(r"\d+$", "", word) for word in spaced.split("_") if word}


def defined_names(module: Module) -> Iterator[tuple[str, str]]:
    """Where and what: the module's own name, its classes and its functions."""
    yield module.path, module.name.split(".")[-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield module.at(node), node.name


def name_violations(module: Module) -> list[str]:
    return [
        f"{where} is called {name}"
        for where, name in defined_names(module)
        if words_of(name) & EMPTY_WORDS
    ]


def test_no_module_class_or_function_has_an_empty_name() -> None:
    assert [line for m in modules() for line in name_violations(m)] == []


def test_every_module_begins_by_saying_its_place() -> None:
    silent = [m.path for m in modules() if m.tree.body and ast.get_docstring(m.tree) is None]
    assert silent == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("enova.base.utils", ""),
        ("enova.base.text_helpers", ""),
        ("enova.base.a", "class StateManager: ..."),
        ("enova.base.a", "class HTTPHandler2: ..."),
        ("enova.base.a", "def common_names(): ..."),
    ],
)
def test_the_rule_of_names_sees(name: str, text: str) -> None:
    assert name_violations(module_from(text, name)) != []


def test_the_rule_of_names_allows_words_that_only_look_alike() -> None:
    text = "class Commonality: ...\ndef handle(): ...\ndef utilization(): ..."
    assert name_violations(module_from(text, "enova.base.management")) == []
