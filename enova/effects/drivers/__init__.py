"""Targets by name. A driver's module is imported only when that target is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from enova.base.errors import Refused

if TYPE_CHECKING:
    from enova.effects.drivers.base import Driver
    from enova.effects.state.store import StateDir
    from enova.spec.model import Pool

MODULES: dict[str, str | None] = {
    "process": "enova.effects.drivers.process",
    "compose": "enova.effects.drivers.docker",
    "ansible": None,
    "kubernetes": None,
}
"""The module of each target's driver; None: not built yet."""


class OpenDriver(Protocol):
    """How a driver is opened: for one pool, one stack in one environment, its state folder."""

    def __call__(
        self,
        pool: Pool,
        *,
        stack: str,
        env: str,
        state: StateDir,
        environment: Mapping[str, str],
    ) -> Driver:
        """The driver. Opening it changes nothing."""
        ...


def open_driver(
    pool: Pool, *, stack: str, env: str, state: StateDir, environment: Mapping[str, str]
) -> Driver:
    """The driver of the pool's target. Raises Refused for a target that is not built yet."""
    name = MODULES.get(pool.target)
    if name is None:
        raise Refused(
            f'pool.target "{pool.target}" is not built yet; '
            '"process" runs everything on this machine'
        )
    opened = cast(OpenDriver, import_module(name).open_driver)
    return opened(pool, stack=stack, env=env, state=state, environment=environment)
