"""Each third-party library is imported in its home only; a library without one is refused.

A new dependency gets a line here, a reason in `docs/decisions/`, and one place to live.
"""

from __future__ import annotations

import pytest

from tests.architecture.source import Module, module_from, modules, third_party

BORDERS = (
    "spec",
    "capacity.catalog",
    "stack.document",
    "services.reconciler.memory",
    "services.web",
)
"""Where outside data becomes values: what people write, what was stored, what a page sends."""

HOMES: dict[str, tuple[str, ...]] = {
    "aiohttp": ("effects.load", "services.emulator"),
    "ansible_runner": ("effects.drivers.ansible",),
    "click": ("cli",),
    "docker": ("effects.drivers.docker_engine",),
    "envoy": ("effects",),
    "fastapi": ("services",),
    "grafana_foundation_sdk": ("stack.render.grafana",),
    "httpx": ("effects", "services"),
    "jinja2": ("stack.render",),
    "kubernetes": ("effects.drivers.kubernetes",),
    "numpy": ("capacity", "policy.anomaly"),
    "opentelemetry": ("effects",),
    "prometheus_api_client": ("effects.sources.prometheus",),
    "prometheus_client": ("effects.sources", "services"),
    "psutil": ("effects",),
    "pydantic": (*BORDERS, "cli.plugins"),
    "pydantic_core": BORDERS,
    "pynvml": ("effects.sources.nvml",),
    "requests": ("effects.sources.prometheus",),
    "rich": ("cli",),
    "ruamel": ("spec.yaml",),
    "scipy": ("capacity", "policy.anomaly"),
    "tokenizers": ("effects",),
    "urllib3": ("effects.sources.prometheus",),
    "uvicorn": ("services",),
    "uvloop": ("effects.load", "services.emulator"),
    "yaml": ("spec.yaml", "stack.render"),
}


def is_at_home(module: Module, library: str) -> bool:
    return any(f"{module.name}.".startswith(f"enova.{home}.") for home in HOMES.get(library, ()))


def home_violations(module: Module) -> list[str]:
    found = []
    for imported in module.imports:
        library = third_party(imported.target)
        if library and not is_at_home(module, library):
            homes = ", ".join(HOMES.get(library, ())) or "none"
            found.append(f"{module.at(imported)} imports {library}, whose home is: {homes}")
    return found


def test_libraries_are_imported_at_home_only() -> None:
    assert [line for m in modules() for line in home_violations(m)] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("enova.stack.plan", "import numpy as np"),
        ("enova.spec.load", "import yaml"),
        ("enova.workflows.plan", "from rich.table import Table"),
        ("enova.effects.drivers.process", "from aiohttp import ClientSession"),
        ("enova.capacity.perf.point", "def f():\n    from pydantic import BaseModel"),
        ("enova.effects.drivers.process", "import vllm"),
        ("enova.cli.main", "import transformers"),
        ("enova.cli.main", "from importlib.util import find_spec\nfind_spec('envoy')"),
    ],
)
def test_the_rule_of_homes_sees(name: str, text: str) -> None:
    assert home_violations(module_from(text, name)) != []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("enova.spec.yaml", "import yaml"),
        ("enova.stack.render.compose", "import yaml"),
        ("enova.cli.views.text", "from rich.table import Table"),
        ("enova.services.emulator.server", "from aiohttp import web"),
        ("enova.base.units", "import re"),
    ],
)
def test_the_rule_of_homes_allows(name: str, text: str) -> None:
    assert home_violations(module_from(text, name)) == []
