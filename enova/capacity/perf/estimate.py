"""Predictions for one replica: memory, step time, steady state, and percentiles by simulation.

In: a ``Configuration`` and a ``Workload``. Out: figures with intervals. ``Estimator`` is what
sizing needs from any performance model; ``RooflineEstimator`` is the one built on data sheets. A
better one replaces it without a change elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from enova.capacity.catalog.gpus import DeviceFacts
from enova.capacity.catalog.shape import ModelShape
from enova.capacity.perf.memory import Layout, Ledger, ledger
from enova.capacity.perf.point import Figure, LinearStepTime, Source, StepTime
from enova.capacity.perf.roofline import Roofline, linearize, request_overhead
from enova.capacity.sim.replica import ReplicaLimits
from enova.capacity.sim.report import Goal, Metric, Report, report
from enova.capacity.sim.run import Member, as_requests, run
from enova.capacity.workload import Workload, sample

SEED = 20_240_601
"""Seed of generated traffic: common to all candidates, so that they meet the same requests."""


@dataclass(frozen=True)
class Calibration:
    """A step law measured on the very hardware, with the doubt that is left (0.1 is 10 %)."""

    law: LinearStepTime
    doubt: float = 0.1


@dataclass(frozen=True)
class Configuration:
    """One replica to predict. ``device`` is what it computes on; ``emulated`` engines run the
    linear law of that device and have none of it."""

    shape: ModelShape
    device: DeviceFacts
    layout: Layout
    max_num_batched_tokens: int
    emulated: bool = False
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Doubt:
    """How far off a prediction may be: a latency lies within value / factor .. value * factor."""

    step: float
    ttft: float
    memory: float
    source: Source
    calibrated: bool

    def of(self, metric: Metric) -> float:
        """The factor for one metric."""
        return self.ttft if metric == "ttft" else self.step


@dataclass(frozen=True)
class SteadyState:
    """Means at a rate, without queueing: what the search ranks by.

    ``running`` sequences, ``step_s`` a mean step, ``prefill_s`` a step that takes in a prompt.
    ``stable`` is False when the replica cannot keep up; then the rest is the state at its limit.
    """

    running: float
    step_s: float
    ttft_s: float
    tpot_s: float
    kv_share: float
    stable: bool


@dataclass(frozen=True)
class Simulated:
    """One simulated load point, with the doubt of the model it rests on."""

    rate_per_s: float
    report: Report
    doubt: Doubt

    def figure(self, metric: Metric, percentile: int) -> Figure:
        """A latency percentile with its interval."""
        value = self.report.percentile(metric, percentile)
        factor = self.doubt.of(metric)
        return Figure(value, value / factor, value * factor, self.doubt.source)

    def meets(self, goals: Sequence[Goal]) -> bool:
        """Whether the upper end of every interval is within its goal."""
        return all(self.figure(g.metric, g.percentile).high <= g.limit_s for g in goals)


class Estimator(Protocol):
    """What sizing asks of a performance model. All methods are pure."""

    def memory(self, config: Configuration) -> Ledger:
        """Where the memory of one rank goes."""
        ...

    def step_time(self, config: Configuration, workload: Workload) -> StepTime:
        """The step time for traffic like this."""
        ...

    def law(self, config: Configuration, workload: Workload) -> LinearStepTime:
        """The linear law closest to the step time: for the lock, the emulator, live learning."""
        ...

    def doubt(self, config: Configuration) -> Doubt:
        """How far off the predictions may be."""
        ...

    def steady_state(
        self, config: Configuration, workload: Workload, rate_per_s: float
    ) -> SteadyState:
        """Means at a rate, quickly."""
        ...

    def simulate(
        self, config: Configuration, workload: Workload, rate_per_s: float, *, count: int
    ) -> Simulated:
        """Percentiles at a rate from ``count`` simulated requests."""
        ...


GUESS = Doubt(step=1.25, ttft=1.4, memory=1.1, source="data sheet", calibrated=False)
"""Constants fitted elsewhere, this GPU by its data sheet."""

ROUGH = Doubt(step=2.0, ttft=2.0, memory=1.2, source="data sheet", calibrated=False)
"""A processor nobody measured."""

EXACT = Doubt(step=1.05, ttft=1.1, memory=1.0, source="fitted", calibrated=True)
"""An emulator runs the law it was given; what is left is chance."""


def measured(doubt: float) -> Doubt:
    """What is left after a measurement on the very hardware."""
    return Doubt(1 + doubt, 1 + 2 * doubt, 1.02, "measured here", True)


def doubt_of(*, emulated: bool, device: str, source: Source = "data sheet") -> Doubt:
    """The doubt of a prediction by where it comes from; ``device`` is ``cpu`` or a GPU's name."""
    if source == "measured here":
        return measured(0.1)
    if emulated:
        return EXACT
    return ROUGH if device == "cpu" else GUESS


@dataclass(frozen=True)
class RooflineEstimator:
    """The estimator that needs no measurement. ``seed`` fixes the simulated traffic."""

    seed: int = SEED

    def memory(self, config: Configuration) -> Ledger:
        """See ``Estimator``."""
        return ledger(config.shape, config.device, config.layout)

    def step_time(self, config: Configuration, workload: Workload) -> StepTime:
        """See ``Estimator``. A calibration wins over the data sheet."""
        if config.calibration or config.emulated:
            return self.law(config, workload)
        return self._roofline(config, workload)

    def law(self, config: Configuration, workload: Workload) -> LinearStepTime:
        """See ``Estimator``."""
        if config.calibration:
            return config.calibration.law
        chunk = min(config.max_num_batched_tokens, max(256, round(workload.input.mean())))
        decodes = min(config.layout.max_num_seqs, 64)
        step = self._roofline(config, workload)
        return linearize(step, decodes=decodes, prefill_tokens=chunk)

    def doubt(self, config: Configuration) -> Doubt:
        """See ``Estimator``."""
        if config.calibration:
            return measured(config.calibration.doubt)
        return doubt_of(emulated=config.emulated, device=config.device.kind)

    def steady_state(
        self, config: Configuration, workload: Workload, rate_per_s: float
    ) -> SteadyState:
        """See ``Estimator``."""
        kv_tokens = self.memory(config).kv_tokens
        step = self.step_time(config, workload)
        return steady_state(
            step,
            workload,
            rate_per_s,
            max_num_seqs=config.layout.max_num_seqs,
            token_budget=config.max_num_batched_tokens,
            kv_tokens=kv_tokens,
            overhead_s=self._overhead(config, workload),
        )

    def simulate(
        self, config: Configuration, workload: Workload, rate_per_s: float, *, count: int
    ) -> Simulated:
        """See ``Estimator``."""
        member = Member(self.step_time(config, workload), limits_of(config, self.memory(config)))
        outcome = simulate(
            (member,),
            workload,
            rate_per_s,
            count=count,
            seed=self.seed,
            extra_ttft_s=self._overhead(config, workload),
        )
        return Simulated(rate_per_s, outcome, self.doubt(config))

    def _roofline(self, config: Configuration, workload: Workload) -> Roofline:
        prompt = workload.input.second_moment() / workload.input.mean()
        return Roofline(
            config.shape,
            config.device,
            config.layout,
            typical_prompt=min(prompt, config.layout.max_model_len),
            typical_context=workload.input.mean() + workload.output.mean() / 2,
        )

    def _overhead(self, config: Configuration, workload: Workload) -> float:
        """The emulator answers without tokenizing, so it has no share outside the steps."""
        if config.emulated:
            return 0.0
        return request_overhead(config.device, workload.input.mean())


def limits_of(config: Configuration, memory: Ledger) -> ReplicaLimits:
    """The scheduler's limits of a configuration that fits."""
    layout = config.layout
    return ReplicaLimits(
        max_num_seqs=layout.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=layout.max_model_len,
        kv_blocks=memory.kv_blocks,
        block_size=layout.block_size,
    )


def steady_state(
    step: StepTime,
    workload: Workload,
    rate_per_s: float,
    *,
    max_num_seqs: int,
    token_budget: int,
    kv_tokens: int,
    overhead_s: float,
) -> SteadyState:
    """Fixed point of "running = rate x residence": means of a replica that keeps up.

    Steps come in two kinds: those that also take in a prompt and those that do not. ``kv_share``
    is the mean share of the KV cache in use.
    """
    prompt = max(1.0, workload.input.mean() * (1 - workload.prefix_reuse))
    context = workload.input.mean() + workload.output.mean() / 2
    output = workload.output.mean()
    room = min(float(max_num_seqs), kv_tokens / (context + output / 2))
    chunk = min(prompt, float(token_budget))
    steps_per_prompt = math.ceil(prompt / token_budget)

    def lengths(running: float) -> tuple[float, float]:
        decodes = max(1, round(running))
        tokens = round(running * context)
        plain = step(prefill_tokens=0, decodes=decodes, context_tokens=tokens)
        mixed = step(prefill_tokens=round(chunk), decodes=decodes, context_tokens=tokens)
        return plain, mixed

    def at(running: float) -> float:
        """Rate at which that many sequences run: the mean step follows from the mix."""
        plain, mixed = lengths(running)
        # One token a step and sequence: rate * output tokens/s = running / step, and a share
        # rate * step * steps_per_prompt of the steps is mixed.
        extra = (mixed - plain) * steps_per_prompt
        return running / (output * plain + running * extra)

    if at(room) <= rate_per_s:
        running, stable = room, False
    else:
        low, high = 0.0, room
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle) < rate_per_s else (low, middle)
        running, stable = high, True
    plain, mixed = lengths(running)
    mean = running / (output * max(at(running), 1e-12)) if running > 0 else plain
    return SteadyState(
        running=running,
        step_s=mean,
        ttft_s=overhead_s + mean / 2 + mixed * steps_per_prompt,
        tpot_s=mean,
        kv_share=running * context / max(1, kv_tokens),
        stable=stable,
    )


def simulate(
    members: Sequence[Member],
    workload: Workload,
    rate_per_s: float,
    *,
    count: int,
    seed: int,
    extra_ttft_s: float = 0.0,
) -> Report:
    """The report of ``count`` requests at a rate over equal limits; the first tenth warms up."""
    sampled = sample(workload, rate_per_s, count=count, seed=seed)
    outcome = run(as_requests(sampled, members[0].limits), members)
    return report(outcome, warm_up_s=sampled[count // 10].arrival_s, extra_ttft_s=extra_ttft_s)
