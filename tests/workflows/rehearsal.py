"""A stack on the fake target with real state, lock and spec files, driven by workflows alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enova.capacity.inventory import Device, Host, Inventory
from enova.effects.clock import SystemClock
from enova.effects.drivers.base import Driver
from enova.effects.drivers.fake import FakeDriver, World
from enova.effects.execute import StopFlag
from enova.effects.state.store import StateDir
from enova.policy.signals import Signals
from enova.services.reconciler import loop
from enova.spec.model import Pool
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask, Plan
from enova.workflows.apply import Applied, carry_out, check_files, read_saved, site_of
from enova.workflows.destroy import plan_destroy
from enova.workflows.loading import Source
from enova.workflows.plan import Planned, plan
from enova.workflows.rollback import plan_rollback
from enova.workflows.wiring import Site, Surroundings, open_named

GPU = "h100-sxm-80gb"

CHAT = """\
version: 1
name: web
services:
  chat:
    model: meta-llama/Llama-3.1-8B-Instruct
    engine: {name: emulator, args: {max-num-seqs: 32, tensor-parallel-size: 1}}
    traffic: {peak: 2/s, input_tokens: 100, output_tokens: 20}
    scale: {min: 2, max: 6, hold: 0s}
"""

EMBED = """\
  embed:
    model: meta-llama/Llama-3.1-8B-Instruct
    engine: {name: emulator, args: {max-num-seqs: 16, tensor-parallel-size: 1}}
    traffic: {peak: 1/s, input_tokens: 100, output_tokens: 20}
    scale: {min: 1, max: 4, hold: 0s}
"""


def hosts(*gpus: int) -> Inventory:
    """One host for each number, with so many GPUs."""
    return Inventory(
        tuple(
            Host(f"host-{n}", tuple(Device(i, GPU, 80 * 2**30) for i in range(count)))
            for n, count in enumerate(gpus)
        )
    )


@dataclass
class Reading:
    """Signals as a test sets them, by service."""

    rates: dict[str, float | None] = field(default_factory=dict)

    def read(self, applied: Ask, observed: Observed) -> Mapping[str, Signals]:
        """Signals of every service now."""
        return {
            name: Signals(
                at_s=0.0, window_s=30.0, arrival_rate=self.rates.get(name), waiting=0.0, running=0.0
            )
            for name in applied.choices
        }


class Rehearsal:
    """Everything a person and a reconciler do with one stack, below one folder."""

    def __init__(self, folder: Path, inventory: Inventory) -> None:
        self.folder = folder
        self.spec = folder / "web.enova.yaml"
        self.driver = FakeDriver(World(inventory=inventory))
        self.opened: list[Pool] = []
        self.surroundings = Surroundings(
            {"ENOVA_STATE_DIR": str(folder / "state")}, SystemClock(), self._open
        )
        self.signals = Reading()

    def _open(
        self, pool: Pool, *, stack: str, env: str, state: StateDir, environment: Mapping[str, str]
    ) -> Driver:
        self.opened.append(pool)
        return self.driver

    @property
    def state(self) -> StateDir:
        return StateDir(self.folder / "state", "web")

    def write(self, text: str) -> None:
        self.spec.write_text(text)

    def plan(self, *, env: str = "", path: Path | None = None, locked: bool = False) -> Planned:
        return plan(Source(str(path or self.spec), env), self.surroundings, locked=locked)

    def carry_out(self, made: Plan, here: Site) -> Applied:
        return carry_out(
            made, here, emit=lambda _: None, stop=StopFlag(), command="test", wait_s=0.0
        )

    def apply(self, text: str | None = None, *, env: str = "") -> Applied:
        """Plan and carry out, as ``enova apply`` does."""
        if text is not None:
            self.write(text)
        planned = self.plan(env=env)
        return self.carry_out(planned.plan, planned.site)

    def apply_saved(self, path: Path) -> Applied:
        saved = read_saved(str(path))
        check_files(saved, self.surroundings)
        return self.carry_out(saved, site_of(saved, self.surroundings))

    def here(self, env: str = "") -> Site:
        return open_named(self.surroundings, "web", env=env)

    def rollback(self, serial: int | None = None) -> Applied:
        here = self.here()
        return self.carry_out(plan_rollback(here, serial=serial).plan, here)

    def destroy(self) -> Applied:
        here = open_named(self.surroundings, str(self.spec), env="")
        return self.carry_out(plan_destroy(here), here)

    def tick(self, here: Site | None = None) -> loop.Report:
        """One look of the reconciler."""
        parts = loop.Parts(self.signals, lambda _: None, lambda _: None, lambda: None)
        return loop.once(here or self.here(), parts, stop=StopFlag())

    def serving(self, service: str = "chat") -> list[str]:
        """Slots that serve behind the gateway."""
        seen = self.driver.observe()
        members = {m.instance for m in seen.members.get(service, ()) if not m.draining}
        return [
            i.address
            for i in seen.of_service(service)
            if i.state is State.SERVING and i.id in members
        ]

    def fields(self, service: str = "chat") -> set[object]:
        """``max-num-seqs`` of what runs."""
        return {dict(i.fields).get("args.max-num-seqs") for i in self.driver.observe().instances}
