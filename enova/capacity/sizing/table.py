"""How much 1, 2, 4 ... replicas of a choice carry within the goals: what the scaler decides by.

Several replicas behind a gateway that picks the least loaded carry more than as many times one:
a burst finds a free one. The linear law of the choice is simulated, so the table needs neither
the model nor the catalog, and follows the law when that is calibrated on live numbers.
"""

from __future__ import annotations

from enova.capacity.perf.estimate import SEED, Simulated, doubt_of, simulate, steady_state
from enova.capacity.sim.replica import ReplicaLimits
from enova.capacity.sim.report import Objectives
from enova.capacity.sim.run import Member
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.limits import (
    effective_goals,
    largest_rate,
    requests_for,
)
from enova.capacity.workload import Workload
from enova.policy.scaling import CapacityTable

SIZES = (2, 4, 8)
"""Numbers of replicas that are simulated; the table is straight between and beyond them."""


def capacity_table(
    choice: Choice,
    *,
    goals: Objectives,
    workload: Workload,
    most: int = SIZES[-1],
    seed: int = SEED,
) -> CapacityTable:
    """The table of a choice, up to ``most`` replicas.

    The first row is the rate that sizing found; larger fleets are scaled by what pooling gains.
    """
    wanted = effective_goals(goals)
    one = _fleet_rate(choice, 1, goals=wanted, workload=workload, seed=seed)
    rows = [(1, choice.rate_per_replica)]
    for count in (size for size in SIZES if size <= most):
        fleet = _fleet_rate(choice, count, goals=wanted, workload=workload, seed=seed)
        gain = max(1.0, fleet / (count * one)) if one > 0 else 1.0
        rate = max(gain * count * choice.rate_per_replica, rows[-1][1])
        rows.append((count, float(f"{rate:.4g}")))
    last, rate = rows[-1]
    return CapacityTable(per_replica_rate=rate / last, rows=tuple(rows))


def limits_of_choice(choice: Choice) -> ReplicaLimits:
    """The scheduler's limits of a chosen configuration."""
    return ReplicaLimits(
        max_num_seqs=choice.max_num_seqs,
        max_num_batched_tokens=choice.max_num_batched_tokens,
        max_model_len=choice.max_model_len,
        kv_blocks=choice.kv_blocks,
        block_size=choice.block_size,
    )


def _fleet_rate(
    choice: Choice, replicas: int, *, goals: Objectives, workload: Workload, seed: int
) -> float:
    """The largest arrival rate of the whole fleet within the goals."""
    limits = limits_of_choice(choice)
    members = tuple(Member(choice.step, limits, choice.weight) for _ in range(replicas))
    source = next(iter(choice.prediction.latencies.values())).source
    doubt = doubt_of(emulated=choice.emulated, device=choice.device, source=source)

    def running(rate: float) -> tuple[float, bool]:
        state = steady_state(
            choice.step,
            workload,
            rate / replicas,
            max_num_seqs=choice.max_num_seqs,
            token_budget=choice.max_num_batched_tokens,
            kv_tokens=choice.kv_blocks * choice.block_size,
            overhead_s=0.0,
        )
        return state.running, state.stable

    def point(rate: float) -> Simulated:
        count = requests_for(running(rate)[0], goals, replicas=replicas)
        return Simulated(rate, simulate(members, workload, rate, count=count, seed=seed), doubt)

    # Where the step law alone saturates: no goal holds beyond it.
    high = replicas * choice.rate_per_replica * 2
    while not running(high)[1] and high > 1e-3:
        high *= 0.9
    low = 0.5 * replicas * choice.rate_per_replica
    return largest_rate(point, goals, high=high, low=min(low, high / 2)).rate_per_s
