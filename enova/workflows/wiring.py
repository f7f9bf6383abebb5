"""Where verbs get their hands: the driver, state, journal and clock for one stack.

``Surroundings`` is everything that differs between a terminal, a test and a service. ``Site`` is
one stack in them. Nothing is decided here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enova.base.address import NAME
from enova.base.errors import Refused
from enova.capacity.inventory import Inventory
from enova.capacity.sizing.choice import Choice
from enova.effects.clock import Clock, SystemClock
from enova.effects.drivers import OpenDriver, open_driver
from enova.effects.drivers.base import Driver
from enova.effects.state.journal import Journal
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir, list_stacks, state_root
from enova.spec.load import load_document
from enova.spec.model import Pool
from enova.stack.observed import Observed
from enova.stack.plan import Ask
from enova.stack.record import Record
from enova.workflows.loading import FOLDER, STDIN, Read, Source, read


@dataclass(frozen=True)
class Surroundings:
    """The environment variables, the clock and how drivers are opened."""

    environment: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)
    open_driver: OpenDriver = open_driver

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process."""
        return cls(dict(os.environ))

    @property
    def root(self) -> Path:
        """The folder of all stacks' state."""
        return state_root(self.environment)


@dataclass(frozen=True)
class Site:
    """One stack: its state, its driver, its journal."""

    surroundings: Surroundings
    state: StateDir
    driver: Driver
    journal: Journal
    pool: Pool
    """What the driver was opened for."""

    @property
    def clock(self) -> Clock:
        """The surroundings' clock."""
        return self.surroundings.clock

    def lease(self, command: str) -> Lease:
        """The right to apply, not yet taken. ``command`` is shown to those who wait for it."""
        return Lease(self.state, clock=self.clock, holder=this_process(command))


@dataclass(frozen=True)
class Gathered:
    """The world and the memory of one stack, read once."""

    record: Record
    recorded: Ask | None
    observed: Observed
    inventory: Inventory
    monitors: frozenset[str]
    """Names of the monitors that the target can run."""


def site(surroundings: Surroundings, stack: str, *, env: str, pool: Pool) -> Site:
    """The site of a stack. Opening it changes nothing."""
    state = StateDir(surroundings.root, stack, env)
    driver = surroundings.open_driver(
        pool, stack=stack, env=env, state=state, environment=surroundings.environment
    )
    journal = Journal(state.journal_file, clock=surroundings.clock)
    return Site(surroundings, state, driver, journal, pool)


def gather(here: Site) -> Gathered:
    """Read record and world. Raises Unreachable when the target does not answer at all."""
    record = here.state.read()
    return Gathered(
        record=record,
        recorded=ask_of(record),
        observed=here.driver.observe(),
        inventory=here.driver.inventory(),
        monitors=here.driver.runs_monitors(),
    )


def ask_of(record: Record) -> Ask | None:
    """What the record says was applied, read back; None before the first apply."""
    if record.document is None:
        return None
    choices = {name: Choice.from_plain(data) for name, data in sorted(record.choices.items())}
    return Ask(load_document(record.document), record.document, choices, record.images)


@dataclass(frozen=True)
class Named:
    """A stack the user named: by its spec, or by its name once it was applied."""

    stack: str
    env: str
    spec: Read | None


def named(surroundings: Surroundings, target: str, *, env: str) -> Named:
    """The stack that ``target`` means: ``-``, a path, the name of an applied stack, or nothing.

    Raises SpecError for a wrong spec, Refused when nothing fits or more than one does.
    """
    if target == STDIN or (Path(target).exists() and (target != FOLDER or _has_spec())):
        found = read(Source(target, env), surroundings.environment)
        return Named(found.spec.name, env, found)
    known = list_stacks(surroundings.root)
    if NAME.match(target) and (target, env) in known:
        return Named(target, env, None)
    if target == FOLDER:
        mine = [pair for pair in known if not env or pair[1] == env]
        if len(mine) == 1:
            return Named(*mine[0], None)
        choices = ", ".join(f"{s} --env {e}" if e else s for s, e in mine)
        raise Refused(
            f"No spec here, and {len(mine)} applied stacks"
            + (f": {choices}. Name one." if mine else ". Write a spec with: enova init")
        )
    raise Refused(f'"{target}" is neither a file, a folder nor an applied stack')


def open_named(surroundings: Surroundings, target: str, *, env: str) -> Site:
    """The site of the stack that ``target`` means, with the pool it was applied to."""
    found = named(surroundings, target, env=env)
    record = StateDir(surroundings.root, found.stack, found.env).read()
    applied = ask_of(record)
    if applied is not None:
        pool = applied.spec.pool
    else:
        pool = found.spec.spec.pool if found.spec is not None else Pool()
    return site(surroundings, found.stack, env=found.env, pool=pool)


def _has_spec() -> bool:
    return any(entry.name.endswith((".enova.yaml", ".enova.yml")) for entry in Path().iterdir())
