"""Leaving out the search for plugins must leave everything else as it is."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from enova.cli import plugins
plugins.leave_out()
import enova.spec.model
assert "importlib.metadata" not in sys.modules, "the search was made"
import importlib.metadata
assert importlib.metadata.version("pydantic")
from pydantic import TypeAdapter
assert TypeAdapter(int).validate_python("3") == 3
"""


def test_the_model_is_built_without_a_search_and_metadata_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
