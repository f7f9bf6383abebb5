"""A model's ``config.json`` from a local folder: the facts sizing starts from.

In: the path a spec names. Out: the parsed configuration, or None when the id is not a path.
Raises Refused when the path exists but holds no readable configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enova.base.errors import Refused


def is_local(model: str) -> bool:
    """True for ids that are written as paths."""
    return model.startswith(("/", "./", "../", "~"))


def read_config(model: str) -> dict[str, Any] | None:
    """The configuration of the model in a folder; None for a hub id."""
    if not is_local(model):
        return None
    path = Path(model).expanduser() / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Refused(
            f"{path} does not exist. model.id must be a folder with a config.json, or a hub id"
        ) from error
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise Refused(f"{path} is not a model configuration: a JSON object is needed")
    return data
