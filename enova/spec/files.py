"""Which files make up a stack, decided from names alone; reading them is the caller's.

In: the names in a folder, an environment name. Out: groups of names, the base file first. One
stack is one base file, ``chat.enova.yaml``; ``--env prod`` lays ``chat.prod.enova.yaml`` over it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from enova.base.errors import SpecError
from enova.base.problems import Problem, inert

SUFFIXES = (".enova.yaml", ".enova.yml")
_OTHER_SUFFIXES = (".yaml", ".yml", ".json")
_ENVIRONMENT = re.compile(r"^[a-z][a-z0-9-]{0,39}$")


def _split(name: str) -> tuple[str, str]:
    """``chat.enova.yaml`` as ``("chat", ".enova.yaml")``."""
    for suffix in SUFFIXES + _OTHER_SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name[: -len(suffix)], suffix
    return name, ""


def overlay_name(name: str, env: str) -> str:
    """The overlay beside ``name``: ``chat.prod.enova.yaml`` beside ``chat.enova.yaml``."""
    folder, slash, file = name.rpartition("/")
    stem, suffix = _split(file)
    return f"{folder}{slash}{stem}.{env}{suffix}"


def check_environment(env: str) -> None:
    """Raises SpecError when ``env`` cannot be the name of an environment."""
    if not _ENVIRONMENT.match(env):
        message = f'"{inert(env)[:40]}" cannot name an environment'
        raise SpecError([Problem("E131", message, hint="use lower-case letters, digits, dashes")])


def select_files(names: Iterable[str], env: str | None = None) -> tuple[tuple[str, ...], ...]:
    """Groups of a folder's ``names``, one for each stack: the base file, then its overlay if any.

    Overlays (``chat.prod.enova.yaml``) are never stacks of their own, nor are dot files. Raises
    SpecError when there is no base file, or when ``env`` is given and no stack has that overlay.
    """
    if env is not None:
        check_environment(env)
    given = set(names)
    bases = sorted(
        name
        for name in given
        if name.endswith(SUFFIXES)
        and "." not in _split(name.rpartition("/")[2])[0]
        and not name.rpartition("/")[2].startswith(".")
    )
    if not bases:
        message = "no spec here: no file ends in .enova.yaml"
        raise SpecError([Problem("E130", message, hint="enova init writes one")])
    return group_files(bases, given, env)


def group_files(
    bases: Iterable[str], present: Iterable[str], env: str | None = None
) -> tuple[tuple[str, ...], ...]:
    """As ``select_files`` for base files named by hand; ``present`` are all names that exist."""
    chosen, given = list(bases), set(present)
    if env is None:
        return tuple((base,) for base in chosen)
    check_environment(env)
    groups = []
    for base in chosen:
        over = overlay_name(base, env)
        groups.append((base, over) if over in given else (base,))
    if not any(len(group) > 1 for group in groups):
        wanted = ", ".join(inert(overlay_name(base, env)) for base in chosen)
        message = f'no overlay for environment "{env}"'
        raise SpecError([Problem("E131", message, hint=f"expected {wanted}")])
    return tuple(groups)
