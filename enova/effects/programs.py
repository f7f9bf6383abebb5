"""What a program on this machine says about itself, and what Python packages lie beside it.

In: a path. Out: a version, or why there is none. Nothing is started that stays.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Said:
    """The first line a program printed, or the ``problem`` that kept it from running."""

    text: str = ""
    problem: str = ""


def ask(command: Sequence[str]) -> Said:
    """Run a program that ends by itself, such as ``envoy --version``."""
    try:
        done = subprocess.run(
            tuple(command), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except OSError as error:
        return Said(problem=error.strerror or str(error))
    except subprocess.TimeoutExpired:
        return Said(problem=f"it did not answer within {TIMEOUT_S:.0f} s")
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if done.returncode != 0:
        return Said(problem=first or f"it exited with {done.returncode}")
    return Said(first)


def installed_version(program: Path, package: str) -> str | None:
    """The version of a Python package beside a script, without starting it; None: not found.

    Starting vLLM to ask for its version takes half a minute.
    """
    try:
        environments = {program.parent.parent, program.resolve().parent.parent}
    except OSError:
        return None
    for environment in environments:
        for found in environment.glob(f"lib/python*/site-packages/{package}-*.dist-info"):
            return found.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return None
