"""Requests through one or more replicas in virtual time, each to the replica with least load.

In: requests in order of arrival and the replicas. Out: when each request got its first and last
token, and all gaps between tokens. Same input, same output.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from enova.capacity.perf.point import StepTime
from enova.capacity.sim.replica import Replica, ReplicaLimits, SimRequest
from enova.capacity.workload import Sampled


@dataclass(frozen=True)
class Member:
    """One replica of the fleet and its weight at the gateway."""

    step_time: StepTime
    limits: ReplicaLimits
    weight: int = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: its replica, and seconds from arrival to its first and to its last token."""

    id: int
    replica: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    e2e_s: float

    @property
    def tpot_s(self) -> float:
        """Mean seconds per token after the first; 0 for a single token."""
        return (self.e2e_s - self.ttft_s) / max(1, self.output_tokens - 1)


@dataclass(frozen=True)
class Run:
    """What happened. ``gaps`` are (seconds between two tokens, how often)."""

    outcomes: tuple[Outcome, ...]
    gaps: tuple[tuple[float, int], ...]
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    busy_s: float
    sequence_s: float
    end_s: float


class _Lane:
    """A replica with the bookkeeping of the run."""

    def __init__(self, index: int, member: Member) -> None:
        self.index = index
        self.weight = member.weight
        self.replica = Replica(member.step_time, member.limits)
        self.open: dict[int, SimRequest] = {}
        self.first: dict[int, float] = {}
        self.done: list[Outcome] = []
        self.gaps: Counter[float] = Counter()
        self.busy_s = 0.0
        self.sequence_s = 0.0

    def load(self) -> float:
        """Open requests for its weight, the next one included."""
        return (len(self.open) + 1) / self.weight

    def submit(self, request: SimRequest) -> None:
        self.open[request.id] = request
        self.replica.submit(request, request.arrival_s)

    def advance(self, until: float) -> None:
        """Take every step that ends at or before ``until``."""
        replica = self.replica
        while (end := replica.next_step_end()) is not None and end <= until:
            stride = replica.stride(until)
            if stride is not None:
                self.gaps[_coarse(stride.seconds / stride.steps)] += stride.steps * stride.decodes
                self.busy_s += stride.seconds
                self.sequence_s += stride.seconds * stride.decodes
                continue
            running = replica.running
            result = replica.finish_step()
            seconds = result.now - result.began
            self.busy_s += seconds
            self.sequence_s += seconds * running
            if result.decode_tokens:
                self.gaps[_coarse(seconds)] += result.decode_tokens
            for request_id in result.first_token:
                self.first[request_id] = result.now
            for request_id in result.finished:
                request = self.open.pop(request_id)
                self.done.append(
                    Outcome(
                        id=request_id,
                        replica=self.index,
                        arrival_s=request.arrival_s,
                        prompt_tokens=request.prompt_tokens,
                        output_tokens=request.output_tokens,
                        ttft_s=self.first.pop(request_id) - request.arrival_s,
                        e2e_s=result.now - request.arrival_s,
                    )
                )


def run(requests: Sequence[SimRequest], members: Sequence[Member]) -> Run:
    """Serve all requests to their end. ``requests`` are in order of arrival."""
    lanes = [_Lane(index, member) for index, member in enumerate(members)]
    for request in requests:
        for lane in lanes:
            lane.advance(request.arrival_s)
        # Ties take turns, as the gateway's random pick does on average.
        turn = request.id % len(lanes)
        least = min(lanes, key=lambda lane: (lane.load(), (lane.index - turn) % len(lanes)))
        least.submit(request)
    for lane in lanes:
        lane.advance(math.inf)
    gaps: Counter[float] = Counter()
    for lane in lanes:
        gaps.update(lane.gaps)
    outcomes = sorted((o for lane in lanes for o in lane.done), key=lambda o: o.id)
    return Run(
        outcomes=tuple(outcomes),
        gaps=tuple(sorted(gaps.items())),
        preemptions=sum(lane.replica.preemptions for lane in lanes),
        prefix_queries=sum(lane.replica.prefix_queries for lane in lanes),
        prefix_hits=sum(lane.replica.prefix_hits for lane in lanes),
        busy_s=sum(lane.busy_s for lane in lanes),
        sequence_s=sum(lane.sequence_s for lane in lanes),
        end_s=max((o.arrival_s + o.e2e_s for o in outcomes), default=0.0),
    )


def as_requests(sampled: Sequence[Sampled], limits: ReplicaLimits) -> tuple[SimRequest, ...]:
    """Generated traffic as the replicas see it, cut to what the engine accepts."""
    longest = limits.max_model_len - 1
    requests = []
    for index, one in enumerate(sampled):
        prompt = min(one.prompt_tokens, longest)
        blocks = min(one.prefix_tokens, prompt) // limits.block_size
        start = (one.group + 1) << 24
        requests.append(
            SimRequest(
                id=index,
                arrival_s=one.arrival_s,
                prompt_tokens=prompt,
                output_tokens=min(one.output_tokens, limits.max_model_len - prompt),
                prefix=tuple(range(start, start + blocks)),
            )
        )
    return tuple(requests)


def _coarse(seconds: float) -> float:
    """Gaps to 0.1 %: few enough to count."""
    return float(f"{seconds:.3g}")
