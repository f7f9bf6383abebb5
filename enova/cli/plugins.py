"""Let pydantic find no plugins, before anything imports the spec's model: enova has none.

Its search imports ``importlib.metadata``, which takes as long as a bare Python to start, even when
pydantic's own switch turns it off; and that switch, an environment variable, would reach engines.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_SEARCHED = "importlib.metadata"


def leave_out() -> None:
    """Import pydantic's plugin loader with nothing to search. Later it finds nothing either."""
    nothing = ModuleType(_SEARCHED)
    nothing.entry_points = lambda **_: ()  # type: ignore[attr-defined]
    real = sys.modules.get(_SEARCHED)
    sys.modules[_SEARCHED] = nothing
    try:
        importlib.import_module("pydantic.plugin._loader")
    finally:
        del sys.modules[_SEARCHED]
        if real is not None:
            sys.modules[_SEARCHED] = real
