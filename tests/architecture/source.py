"""The source of `enova/` as syntax trees, with imports and names resolved to dotted paths.

The architecture tests read code and never import it, so a rule holds for every line of a
module, whether a test runs it or not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "base",
    "spec",
    "policy",
    "capacity",
    "stack",
    "effects",
    "workflows",
    "services",
    "cli",
)
"""In order: a folder imports only folders before it (docs/architecture.md, section 1)."""

PURE = FOLDERS[:5]


def words(text: str) -> frozenset[str]:
    """The words of a text as a set: how the rules list names."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Import:
    """One imported module: `target` is dotted and absolute.

    `typing_only`: below `if TYPE_CHECKING`. `deferred`: inside a function, so not run on import.
    """

    target: str
    line: int
    typing_only: bool = False
    deferred: bool = False


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its path from the project's root, its text."""

    name: str
    path: str
    text: str
    package: bool = False
    known: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def folder(self) -> str:
        """`capacity` of `enova.capacity.sim.replica`; empty for what is in no folder."""
        words = self.name.split(".")
        return words[1] if len(words) > 1 and words[1] in FOLDERS else ""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    def at(self, node: ast.AST | Import) -> str:
        line = node.line if isinstance(node, Import) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports(self.tree.body, typing_only=False, deferred=False))

    def _imports(
        self, nodes: Sequence[ast.AST], *, typing_only: bool, deferred: bool
    ) -> Iterator[Import]:
        for node in nodes:
            for target in self._targets(node):
                yield Import(target, getattr(node, "lineno", 1), typing_only, deferred)
            inner: Sequence[ast.AST] = list(ast.iter_child_nodes(node))
            if isinstance(node, ast.If) and is_type_checking(node.test):
                yield from self._imports(node.body, typing_only=True, deferred=deferred)
                inner = node.orelse
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from self._imports(inner, typing_only=typing_only, deferred=deferred or function)

    def _targets(self, node: ast.AST) -> list[str]:
        """Modules that this node imports, as a statement or by a call with a constant name."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            origin = self._origin(node)
            found = [
                inside if (inside := f"{origin}.{alias.name}") in self.known else origin
                for alias in node.names
            ]
            return sorted(set(found))
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__", "find_spec") and node.args:
                return constant_start(node.args[0])
        return []

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        keep = self.name.split(".")
        up = node.level - (1 if self.package else 0)
        keep = keep[: len(keep) - up] if up else keep
        return ".".join([*keep, *([node.module] if node.module else [])])

    @cached_property
    def aliases(self) -> dict[str, str]:
        """What each imported name stands for: `np` is `numpy`, `now` may be `time.time`."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.split(".")[0]
                    found[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{origin}.{alias.name}"
        return found

    def dotted(self, node: ast.AST) -> str:
        """`datetime.datetime.now` for `D.now` after `from datetime import datetime as D`.

        Empty for anything that is not a plain name with attributes.
        """
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            before = self.dotted(node.value)
            return f"{before}.{node.attr}" if before else ""
        return ""


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def constant_start(node: ast.expr) -> list[str]:
    """The module named by a string, or by the fixed start of an f-string, without its last dot."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0] if isinstance(node.values[0], ast.Constant) else node
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value.rstrip(".")]
    return []


def module_from(text: str, name: str = "enova.base.sample") -> Module:
    """A module that is in no file: what the tests of the rules themselves look at."""
    return Module(name, f"{name.replace('.', '/')}.py", text, known=frozenset(named_modules()))


def third_party(target: str) -> str:
    """Top name of a module that is neither the standard library's nor ours; else empty."""
    top = target.split(".")[0]
    return "" if top in sys.stdlib_module_names or top in ("enova", "") else top


@cache
def named_modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "enova").rglob("*.py")):
        words = list(path.relative_to(ROOT).with_suffix("").parts)
        if words[-1] == "__init__":
            words.pop()
        found[".".join(words)] = path
    return found


@cache
def modules() -> tuple[Module, ...]:
    """Every module of `enova/`, sorted by name."""
    named = named_modules()
    return tuple(
        Module(
            name,
            str(path.relative_to(ROOT)),
            path.read_text(encoding="utf-8"),
            package=path.name == "__init__.py",
            known=frozenset(named),
        )
        for name, path in sorted(named.items())
    )
