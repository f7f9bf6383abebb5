"""Well-known models by hub id. Any other model is read from its own ``config.json``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache

from enova.capacity.catalog import data
from enova.capacity.catalog.config import read_config
from enova.capacity.catalog.shape import ModelShape


@cache
def known_ids() -> tuple[str, ...]:
    """Every hub id the catalog knows, sorted."""
    return tuple(sorted(_by_id().values()))


def find(model_id: str) -> ModelShape | None:
    """The shape of a hub id, None when the catalog does not know it. Case does not matter."""
    return _shape(model_id.lower())


def unknown(model_id: str) -> tuple[str, str]:
    """What to tell the user about an id the catalog does not know: message and hint."""
    near = difflib.get_close_matches(model_id.lower(), list(_by_id()), n=1, cutoff=0.75)
    meant = f'Did you mean "{_by_id()[near[0]]}"? Otherwise d' if near else "D"
    return (
        f'the catalog does not know the model "{model_id}"',
        f"{meant}ownload the model and give the path of its folder (with config.json) as model.id.",
    )


@cache
def _by_id() -> Mapping[str, str]:
    return {i.lower(): i for entry in data.read("models")["models"] for i in entry["ids"]}


@cache
def _shape(lower_id: str) -> ModelShape | None:
    for entry in data.read("models")["models"]:
        if any(lower_id == known.lower() for known in entry["ids"]):
            return read_config(entry["config"])
    return None
