"""The value behind a secret reference, read at the moment of use and kept nowhere.

In: a ``SecretRef``. Out: a ``Secret``. Errors name the reference, never what was read.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from enova.base.errors import Refused
from enova.base.secret import Secret, SecretRef

COMMAND_TIMEOUT_S = 30.0


def resolve(reference: SecretRef, environment: Mapping[str, str]) -> Secret:
    """Read a secret. Raises Refused when there is nothing to read."""
    value = _read(reference, environment).rstrip("\r\n")
    if not value:
        raise Refused(f"{reference.describe()} is empty; it should hold a secret")
    return Secret(value)


def _read(reference: SecretRef, environment: Mapping[str, str]) -> str:
    if reference.env is not None:
        value = environment.get(reference.env)
        if value is None:
            raise Refused(f"{reference.describe()} is not set; it should hold a secret")
        return value
    if reference.file is not None:
        try:
            return Path(reference.file).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise Refused(f"{reference.describe()} cannot be read: {_brief(error)}") from error
    if reference.command:
        return _output(reference, environment)
    raise Refused("a secret reference names neither env, file nor command")


def _output(reference: SecretRef, environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            reference.command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{reference.describe()} failed: {_brief(error)}") from error
    if done.returncode != 0:
        raise Refused(f"{reference.describe()} exited with code {done.returncode}")
    return done.stdout


def _brief(error: Exception) -> str:
    """Why, without any content: decoding and timeout errors quote what was read."""
    return (error.strerror or "") if isinstance(error, OSError) else type(error).__name__
