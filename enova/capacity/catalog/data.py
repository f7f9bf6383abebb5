"""Reading the packaged data files: the only reading that pure code does."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from enova.base.digest import digest


@cache
def read(name: str) -> Any:  # noqa: ANN401 - whatever JSON holds; each lookup module types it
    """The parsed content of ``data/<name>.json``. Callers must not change it."""
    return json.loads((files("enova.capacity.catalog") / "data" / f"{name}.json").read_text())


NAMES = ("engines", "gpus", "models", "prices")


@cache
def version() -> str:
    """Digest of all catalog data: which facts a choice was made with."""
    return digest({name: read(name) for name in NAMES})
