"""The first five folders touch no clock, environment, file, network, process or thread.

A standard library module is allowed by name, so a new one is a decision and not an accident;
where a module has an impure corner (datetime, random, numpy), the corner is refused.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source import PURE, Import, Module, module_from, modules, words

ALLOWED = words(
    """
    __future__ abc array base64 binascii bisect calendar cmath collections collections.abc
    colorsys contextlib copy csv dataclasses datetime decimal difflib enum fnmatch fractions
    functools graphlib gzip hashlib heapq hmac html io ipaddress itertools json keyword math
    numbers operator posixpath pprint random re shlex statistics string struct textwrap types
    typing unicodedata urllib.parse zlib
    """
)
"""Standard library modules that work on values alone."""

NAMES_ONLY = {
    "importlib": {"importlib.resources"},
    "pathlib": {"pathlib.PurePath", "pathlib.PurePosixPath"},
}
"""Of these modules only these names; importlib.resources in the catalog alone."""

CATALOG = "enova.capacity.catalog"

REFUSED_NAMES = words(
    """
    datetime.datetime.now datetime.datetime.today datetime.datetime.utcnow datetime.date.today
    io.open io.open_code io.FileIO gzip.open posixpath.exists posixpath.expanduser
    posixpath.expandvars posixpath.abspath posixpath.realpath posixpath.isfile posixpath.isdir
    posixpath.getmtime posixpath.getsize posixpath.ismount posixpath.islink posixpath.lexists
    posixpath.samefile hashlib.file_digest
    jinja2.FileSystemLoader jinja2.PackageLoader jinja2.ModuleLoader
    numpy.load numpy.save numpy.savez numpy.savez_compressed numpy.loadtxt numpy.savetxt
    numpy.genfromtxt numpy.fromfile numpy.memmap numpy.datetime64
    """
)

REFUSED_CALLS = words("open input print breakpoint exec eval compile __import__ globals")

SEEDED = frozenset({"random.Random", "numpy.random.default_rng", "numpy.random.SeedSequence"})
RANDOM_TYPES = SEEDED | {
    "numpy.random",
    "numpy.random.BitGenerator",
    "numpy.random.Generator",
    "numpy.random.PCG64",
    "numpy.random.Philox",
}


def purity_violations(module: Module) -> list[str]:
    found = [
        f"{module.at(imported)} imports {imported.target}"
        for imported in module.imports
        if not may_import(module, imported)
    ]
    for node in ast.walk(module.tree):
        found += [f"{module.at(node)} {complaint}" for complaint in complaints(module, node)]
    return found


def may_import(module: Module, imported: Import) -> bool:
    """Third parties have homes of their own (test_homes); ours have an order (test_order)."""
    target = imported.target
    if target.split(".")[0] not in sys.stdlib_module_names or target in ALLOWED:
        return True
    names = {name for name in module.aliases.values() if f"{name}.".startswith(f"{target}.")}
    if target.startswith("importlib"):
        resources = {"importlib.resources", "importlib.resources.files"}
        return module.name.startswith(CATALOG) and names | {target} <= resources | {"importlib"}
    return bool(names) and names <= NAMES_ONLY.get(target, set())


def complaints(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name | ast.Attribute):
        name = module.dotted(node)
        if name in REFUSED_NAMES:
            yield f"uses {name}"
        elif name.startswith(("random.", "numpy.random.")) and not is_random_type(name):
            yield f"uses {name}, which has no seed of its own"
    if isinstance(node, ast.Call):
        name = module.dotted(node.func)
        if name in REFUSED_CALLS:
            yield f"calls {name}"
        if name in SEEDED and unseeded(node):
            yield f"calls {name} without a seed"
        if name.endswith(".rvs") and not has_keyword(node, "random_state"):
            yield "draws from scipy without random_state"
        if name.endswith(".fromtimestamp") and len(node.args) + len(node.keywords) < 2:
            yield "asks for the local time zone"


def is_random_type(name: str) -> bool:
    """The generator types and what is read from their instances' classes."""
    return name in RANDOM_TYPES or name.rsplit(".", 1)[0] in RANDOM_TYPES - {"numpy.random"}


def unseeded(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return not given or any(isinstance(v, ast.Constant) and v.value is None for v in given)


def has_keyword(call: ast.Call, name: str) -> bool:
    return any(keyword.arg == name for keyword in call.keywords)


@pytest.mark.parametrize("folder", PURE)
def test_the_folder_is_pure(folder: str) -> None:
    found = [line for m in modules() if m.folder == folder for line in purity_violations(m)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import os",
        "import os.path",
        "from os import environ",
        "import socket",
        "import subprocess",
        "import threading",
        "import asyncio",
        "import logging",
        "import warnings",
        "import sys",
        "import uuid",
        "import secrets",
        "import urllib.request",
        "from pathlib import Path",
        "import pathlib",
        "import importlib.resources",
        "from importlib import import_module",
        "def f():\n    import tempfile",
        "from datetime import datetime\nx = datetime.now()",
        "from datetime import datetime as D\nx = D.utcnow",
        "import datetime\nx = datetime.date.today()",
        "from datetime import datetime\nx = datetime.fromtimestamp(1.0)",
        "import random\nx = random.random()",
        "from random import choice\nx = choice([1])",
        "import random\nx = random.Random()",
        "import random\nx = random.Random(None)",
        "import random\nx = random.SystemRandom(1)",
        "import numpy as np\nx = np.random.rand(3)",
        "import numpy as np\nx = np.random.default_rng()",
        "from numpy.random import default_rng\nx = default_rng()",
        "import numpy as np\nx = np.load('a')",
        "from scipy import stats\nx = stats.norm.rvs(size=2)",
        "x = open('a')",
        "print('a')",
        "x = eval('1')",
        "import posixpath\nx = posixpath.exists('a')",
        "from jinja2 import FileSystemLoader\nx = FileSystemLoader('a')",
    ],
)
def test_the_rule_of_purity_sees(text: str) -> None:
    assert purity_violations(module_from(text)) != []


@pytest.mark.parametrize(
    "text",
    [
        "from datetime import UTC, datetime\nx = datetime.fromtimestamp(1.0, tz=UTC)",
        "import random\ndef f(rng: random.Random) -> float:\n    return rng.random()",
        "from random import Random\nx = Random(7).random()",
        "import numpy as np\nx = np.random.default_rng(7).normal()",
        "from scipy import stats\nx = stats.norm.rvs(size=2, random_state=3)",
        "from pathlib import PurePosixPath\nx = PurePosixPath('a')",
        "from urllib.parse import quote",
        "import re\nx = re.compile('a')",
        "import pydantic",
        "class Pair:\n    input: int\n    def half(self):\n        return self.input / 2",
    ],
)
def test_the_rule_of_purity_allows(text: str) -> None:
    assert purity_violations(module_from(text)) == []


def test_only_the_catalog_reads_package_data() -> None:
    text = "from importlib.resources import files\nx = files('enova')"
    assert purity_violations(module_from(text, f"{CATALOG}.data")) == []
    assert purity_violations(module_from(text, "enova.capacity.sizing.data")) != []
