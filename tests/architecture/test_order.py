"""Direction: a folder imports only folders before it, and no modules import one another."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture.source import FOLDERS, PURE, Module, module_from, modules

FACE = ("enova", "enova.__main__")
"""Modules in no folder: the public names, and `python -m enova`. They may import any folder."""


def order_violations(module: Module) -> list[str]:
    """Imports of a folder that comes later, and uses of the public names of `enova` itself."""
    if module.name in FACE:
        return []
    found = []
    for imported in module.imports:
        words = imported.target.split(".")
        if words[0] != "enova" or len(words) == 1:
            continue
        if words[1] not in FOLDERS:
            found.append(f"{module.at(imported)} imports {imported.target}, which has no folder")
        elif FOLDERS.index(words[1]) > FOLDERS.index(module.folder):
            found.append(
                f"{module.at(imported)} {module.folder}/ imports {words[1]}/, which comes later"
            )
    return found + [
        f"{module.path} uses {name}, a public name: import it from where it is made"
        for name in public_names(module)
    ]


def public_names(module: Module) -> list[str]:
    """Names taken from `enova/__init__.py` other than `__version__` and its like."""
    taken = {name for name in module.aliases.values() if name.startswith("enova.")}
    if "enova" in module.aliases.values():
        taken |= {module.dotted(n) for n in ast.walk(module.tree) if isinstance(n, ast.Attribute)}
    second = {name.split(".")[1] for name in taken if name.startswith("enova.")}
    return sorted(f"enova.{n}" for n in second if n not in FOLDERS and not n.startswith("__"))


def import_graph(
    among: Iterable[Module], *, with_typing: bool = False
) -> dict[str, frozenset[str]]:
    """Which of our modules each module imports, those inside functions too."""
    return {
        module.name: frozenset(
            imported.target
            for imported in module.imports
            if imported.target in module.known and (with_typing or not imported.typing_only)
        )
        for module in among
    }


def cycle_in(graph: dict[str, frozenset[str]]) -> list[str]:
    """One ring of imports, in order; empty when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def reachable(start: Iterable[str], graph: dict[str, frozenset[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph.get(name, ()))
    return seen


def test_every_module_lives_in_one_of_the_folders() -> None:
    homeless = [m.path for m in modules() if not m.folder and m.name not in FACE]
    assert homeless == []


def test_all_folders_are_there() -> None:
    assert {m.folder for m in modules()} - {""} == set(FOLDERS)


def test_a_folder_imports_only_folders_before_it() -> None:
    assert [line for m in modules() for line in order_violations(m)] == []


def test_no_modules_import_one_another_in_a_ring() -> None:
    assert cycle_in(import_graph(modules())) == []


@pytest.mark.parametrize("folder", PURE)
def test_nothing_reachable_from_a_pure_folder_is_impure(folder: str) -> None:
    graph = import_graph(modules(), with_typing=True)
    start = [m.name for m in modules() if m.folder == folder]
    outside = {
        name for name in reachable(start, graph) if name.split(".")[1:2] not in [[f] for f in PURE]
    }
    assert outside - {"enova"} == set()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("enova.base.a", "import enova.spec.model"),
        ("enova.stack.a", "from enova.effects import gateway"),
        ("enova.stack.a", "def f():\n    from enova.effects.gateway import write"),
        (
            "enova.stack.a",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import enova.cli",
        ),
        ("enova.stack.a", "from ..effects import gateway"),
        ("enova.spec.a", "import importlib\nimportlib.import_module('enova.cli.main')"),
        ("enova.effects.a", "from enova import plan"),
        ("enova.effects.a", "import enova\nx = enova.plan"),
        ("enova.effects.a", "import enova as e\nx = e.plan"),
    ],
)
def test_the_rule_of_order_sees(name: str, text: str) -> None:
    assert order_violations(module_from(text, name)) != []


@pytest.mark.parametrize(
    "text",
    [
        "from enova.base import units",
        "from enova.stack.resources import Stack",
        "from .resources import Stack",
        "from enova import __version__",
        "import enova\nx = enova.__file__",
        "import enova.stack.resources\nx = enova.stack.resources.Stack",
        "import json",
    ],
)
def test_the_rule_of_order_allows(text: str) -> None:
    assert order_violations(module_from(text, "enova.stack.a")) == []


def test_a_ring_is_found_through_functions_but_not_through_types() -> None:
    known = frozenset({"enova.base.a", "enova.base.b"})

    def ring(text: str) -> list[str]:
        first = Module("enova.base.a", "a.py", text, known=known)
        second = Module("enova.base.b", "b.py", "from enova.base.a import x", known=known)
        return cycle_in(import_graph((first, second)))

    assert set(ring("def f():\n    from enova.base import b")) == known
    assert (
        ring("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import enova.base.b") == []
    )
