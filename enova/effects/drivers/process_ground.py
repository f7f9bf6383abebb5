"""What every part of the process target stands on: programs, marks, environments.

Values and paths only; the parts (replicas, gateway, monitors) get one ``Ground``. The stack's
state folder is also its mark: every process carries it in its environment.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enova.effects import gateway
from enova.effects.drivers import ground
from enova.effects.drivers.process_folder import Folder, folders
from enova.effects.drivers.process_table import INSTANCE, OWNER
from enova.stack import monitoring

_PASSED_ON = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "CUDA_HOME",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "ENOVA_TEST_RUN",
)
"""What a program needs of its surroundings. Tokens are not among it: they come by reference. The
last is the mark by which a test run finds what it left behind."""


@dataclass(frozen=True)
class Programs:
    """Where the programs are; None or left out: not on this machine. ``engines`` and ``monitors``
    by name."""

    python: Path = field(default_factory=lambda: Path(sys.executable))
    envoy: Path | None = None
    monitors: Mapping[str, Path] = field(default_factory=dict)
    engines: Mapping[str, Path] = field(default_factory=dict)


def find_programs(environment: Mapping[str, str]) -> Programs:
    """The programs of this machine: beside Python first, then on PATH."""

    def found(name: str) -> Path | None:
        beside = Path(sys.executable).parent / name
        if beside.is_file() and os.access(beside, os.X_OK):
            return beside
        on_path = shutil.which(name, path=environment.get("PATH"))
        return Path(on_path) if on_path else None

    vllm = found("vllm")
    monitors = {
        name: program
        for name, programs in monitoring.PROGRAMS.items()
        if (program := next(filter(None, map(found, programs)), None)) is not None
    }
    return Programs(
        envoy=gateway.envoy_binary(),
        monitors=monitors,
        engines={"vllm": vllm} if vllm else {},
    )


@dataclass(frozen=True, kw_only=True)
class Ground(ground.Ground):
    """One stack in one environment on this machine."""

    programs: Programs
    log_bytes: int = 8 * 2**20
    log_keep: int = 4

    def marks(self, owned_id: str | None = None) -> dict[str, str]:
        """The environment marks of everything of this stack, or of one instance or component."""
        marks = {OWNER: str(self.state.absolute())}
        return marks if owned_id is None else {**marks, INSTANCE: owned_id}

    def environment(self, owned_id: str, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process: little of ours, what it asked for, the marks."""
        passed = {k: self.surroundings[k] for k in _PASSED_ON if k in self.surroundings}
        passed.setdefault("PATH", os.defpath)
        passed.setdefault("HOME", str(self.state))
        return {**passed, **extra, **self.marks(owned_id)}

    def owned(self) -> tuple[Folder, ...]:
        """Every instance and component folder."""
        return (*folders(self.instances), *folders(self.components))
