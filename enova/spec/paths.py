"""Relative paths of a spec, made absolute: a stored document must mean the same anywhere.

In: the merged document and the folder the spec lies in. Out: the document with paths that start
with ``./`` or ``../`` joined to that folder. Hub ids and program names are left alone.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

_PATH_KEYS = frozenset({"id", "executable", "file", "certificate", "key", "trace"})


def absolute_paths(document: Mapping[str, object], folder: str) -> dict[str, object]:
    """A copy of ``document`` with its relative paths joined to ``folder``."""
    return {key: _absolute(key, value, folder) for key, value in document.items()}


def _absolute(key: str, value: object, folder: str) -> object:
    if isinstance(value, Mapping):
        return {str(k): _absolute(str(k), v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_absolute(key, item, folder) for item in value]
    path_like = isinstance(value, str) and value.startswith(("./", "../"))
    # `model: ./folder` is short for `model: {id: ./folder}`.
    if path_like and (key in _PATH_KEYS or key == "model"):
        return posixpath.normpath(posixpath.join(folder, str(value)))
    return value
