"""Importing a module only defines things, and importing the command line is cheap.

At module level a call may build a value: a class of ours or of the standard library, a compiled
pattern, a function of the pure folders. It may not look at the world or change it.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

import pytest

from tests.architecture.source import PURE, ROOT, Module, module_from, modules, words

BUILDS_A_VALUE = words(
    """
    abs dict float frozenset getattr hasattr int len list max min object
    range reversed round set sorted str sum tuple zip enumerate
    collections.namedtuple collections.defaultdict dataclasses.dataclass dataclasses.field
    enum.auto functools.cache functools.lru_cache functools.partial functools.wraps
    functools.total_ordering itertools.chain itertools.product operator.attrgetter
    operator.itemgetter re.compile struct.calcsize typing.NewType typing.TypeVar
    typing.ParamSpec typing.get_args typing.cast typing.overload
    types.MappingProxyType datetime.timedelta
    contextvars.ContextVar importlib.metadata.version
    """
)

BUILDERS = ("click", "pydantic", "numpy", "prometheus_client", "enova.cli.options")
"""Modules whose calls at module level declare something: options, fields, constants."""

METHODS_OF_VALUES = words(
    "encode format items join keys lower replace split splitlines strip union upper values"
)

LIGHT = frozenset({"click"})
"""Third parties that `enova --help` may load."""

NOT_FOR_VALIDATE = words(
    """
    aiohttp docker envoy httpx jinja2 numpy prometheus_api_client prometheus_client psutil pynvml
    scipy uvloop asyncio
    """
)


def import_time_violations(module: Module) -> list[str]:
    if module.name.endswith(".__main__"):
        return []
    classes = {node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in module.tree.body if isinstance(node, ast.FunctionDef)}
    own_pure = functions if module.folder in PURE else set()
    found = []
    for node in run_on_import(module.tree.body):
        if isinstance(node, ast.Call):
            name = module.dotted(node.func)
            if name not in classes | own_pure and not builds_a_value(node, name):
                found.append(f"{module.at(node)} calls {ast.unparse(node.func)}")
        elif isinstance(node, ast.With | ast.AsyncWith | ast.While | ast.Delete):
            found.append(f"{module.at(node)} has a {type(node).__name__.lower()} statement")
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute | ast.Subscript):
                    root = root.value
                if root is not target and module.dotted(root) in module.aliases.values():
                    found.append(f"{module.at(node)} changes {ast.unparse(target)}")
    return found


def builds_a_value(call: ast.Call, name: str) -> bool:
    if not name:  # a method of a literal or of another call's value
        return isinstance(call.func, ast.Attribute) and call.func.attr in METHODS_OF_VALUES
    if name in BUILDS_A_VALUE or f"{name}.".startswith(tuple(f"{b}." for b in BUILDERS)):
        return True
    words = name.split(".")
    if words[0] == "enova" and words[1] in PURE:
        return True
    if words[0] == "enova" or words[:1] == ["pathlib"] or words[-1] == "TypeVar":
        return words[-1][:1].isupper()
    if words[0] in sys.stdlib_module_names:
        return words[:-1] in (["decimal"], ["fractions"], ["string"], ["statistics"])
    return len(words) > 1 and words[-1] in METHODS_OF_VALUES


def run_on_import(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Every node that is evaluated by an import: all but bodies of functions and of `main`."""
    for node in nodes:
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [d for d in node.args.kw_defaults if d is not None]
            yield from run_on_import([*node.decorator_list, *node.args.defaults, *defaults])
        elif isinstance(node, ast.Lambda):
            continue
        else:
            yield from run_on_import(list(ast.iter_child_nodes(node)))


def loaded_by(statement: str) -> set[str]:
    """Top names of the modules that a fresh Python has loaded after `statement`."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def third_parties() -> set[str]:
    """Import names of everything installed that is neither ours nor the interpreter's own."""
    names = set(metadata.packages_distributions())
    return {n for n in names if not n.startswith("_")} - {"enova", "pip", "setuptools"}


def test_modules_have_no_effect_when_imported() -> None:
    assert [line for m in modules() for line in import_time_violations(m)] == []


def test_importing_the_command_line_loads_no_heavy_library() -> None:
    ambient = loaded_by("pass")
    heavy = (loaded_by("import enova.cli.main") - ambient) & third_parties()
    assert heavy - LIGHT == set()


def test_every_module_of_a_verb_is_left_alone_until_it_is_called() -> None:
    verbs = {"enova.cli.commands", "enova.workflows", "enova.effects", "enova.capacity"}
    program = "import enova.cli.main, sys\nprint([m for m in sys.modules if m.startswith('enova')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = ast.literal_eval(done.stdout)
    assert [m for m in loaded if any(f"{m}.".startswith(f"{v}.") for v in verbs)] == []


def test_validating_loads_what_it_needs_and_no_more() -> None:
    loaded = loaded_by("import enova.cli.commands.validate") - loaded_by("pass")
    assert loaded & NOT_FOR_VALIDATE == set()


@pytest.mark.parametrize(
    "text",
    [
        "import os\nHOME = os.getenv('HOME')",
        "from pathlib import Path\nTEXT = Path('a').read_text()",
        "print('hello')",
        "import logging\nlog = logging.getLogger(__name__)\nlog.setLevel(10)",
        "import time\nclass A:\n    started = time.time()",
        "import time\ndef f(now=time.time()): ...",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.environ['A'] = 'b'",
        "with open('a') as f:\n    pass",
        "from enova.effects.gateway import envoy_binary\nENVOY = envoy_binary()",
        "def f(): ...\nx = f()",
    ],
)
def test_the_rule_of_import_time_sees(text: str) -> None:
    assert import_time_violations(module_from(text, "enova.effects.sample")) != []


@pytest.mark.parametrize(
    "text",
    [
        "import re\nWORD = re.compile('a')",
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A: ...\nONE = A()",
        "from pathlib import Path\nPROC = Path('/proc')",
        "WORDS = frozenset('a b'.split())",
        "from enova.base.units import parse_duration\nLIMIT = parse_duration('1s')",
        "import click\n@click.command()\n@click.option('-o')\ndef command(o): ...",
        "import time\ndef f():\n    return time.time()",
        "import sys\nif __name__ == '__main__':\n    sys.exit(1)",
        "ADD = lambda: print('a')",
    ],
)
def test_the_rule_of_import_time_allows(text: str) -> None:
    assert import_time_violations(module_from(text, "enova.effects.sample")) == []
