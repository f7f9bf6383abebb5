"""The share of requests within all goals at once binds sizing and the scaler's table."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from enova.base.errors import Infeasible
from enova.capacity.catalog import gpus, models
from enova.capacity.inventory import Device, Host, Inventory
from enova.capacity.perf.estimate import RooflineEstimator, doubt_of, simulate
from enova.capacity.sim.report import Goal, Objectives
from enova.capacity.sim.run import Member
from enova.capacity.sizing.candidates import gpu_configuration
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.from_spec import demand_for, demand_key, goals_of
from enova.capacity.sizing.limits import (
    FEWEST_REQUESTS,
    MOST_REQUESTS,
    capacity,
    requests_for,
)
from enova.capacity.sizing.recommend import recommend
from enova.capacity.sizing.table import capacity_table, limits_of_choice
from enova.capacity.workload import Lengths, Workload
from enova.spec.model import Spec

SHAPE = models.find("meta-llama/Llama-3.1-8B")
assert SHAPE is not None
WORK = Workload(30, 30, Lengths.fit(p50=400, p95=1200), Lengths.fit(p50=100, p95=300))
GOALS = (Goal("e2e", 95, 5.0), Goal("ttft", 95, 0.06))


def pool(count: int) -> Inventory:
    return Inventory((Host("a", tuple(Device(i, "h100-sxm-80gb", 0) for i in range(count))),))


def asked(attainment: float | None, *, goals: tuple[Goal, ...] = GOALS, tp: int = 1) -> Demand:
    return Demand(
        service="chat",
        model="meta-llama/Llama-3.1-8B",
        shape=SHAPE,
        workload=WORK,
        goals=goals,
        attainment=attainment,
        pinned={"tensor_parallel": tp} if tp else {},
    )


def share_of(error: pytest.ExceptionInfo[Infeasible]) -> float:
    way = next(way for way in error.value.ways_out if way.startswith("lower goals.attainment"))
    found = re.search(r"to ([\d.]+) %", way)
    assert found is not None
    return float(found.group(1)) / 100


def test_meeting_each_percentile_is_not_meeting_all_goals_at_once() -> None:
    loose = recommend(asked(None), pool(2)).choice
    for goal in GOALS:
        assert loose.prediction.latencies[goal.key].high <= goal.limit_s
    assert loose.prediction.attainment.low < 0.99
    assert loose.replicas == 2
    with pytest.raises(Infeasible, match=r"bound by goals\.attainment 99 %\), the pool"):
        recommend(asked(0.99), pool(2))


def test_a_share_that_is_offered_instead_is_met() -> None:
    with pytest.raises(Infeasible) as error:
        recommend(asked(0.99), pool(2))
    share = share_of(error)
    choice = recommend(asked(share), pool(2)).choice
    assert 0.9 < share <= choice.prediction.attainment.low


def test_a_share_missed_without_load_says_which_limits_would_do() -> None:
    words = r"\) of requests are within all goals without load, goals\.attainment is 99\.9 %"
    with pytest.raises(Infeasible, match=words) as error:
        recommend(asked(0.999), pool(4))
    way = error.value.ways_out[0]
    found = re.match(r"relax e2e p95 to ([\d.]+) s and ttft p95 to ([\d.]+) ms", way)
    assert found is not None, way
    e2e, ttft = float(found.group(1)), float(found.group(2)) / 1000
    eased = asked(0.999, goals=(Goal("e2e", 95, e2e), Goal("ttft", 95, ttft)))
    assert recommend(eased, pool(4)).choice.prediction.attainment.low >= 0.999


@pytest.mark.parametrize("share", [0.9, 0.95, 0.99])
def test_what_is_chosen_keeps_the_share_with_the_lower_end_of_its_interval(share: float) -> None:
    found = recommend(asked(share, tp=0), pool(8))
    assert found.choice.prediction.attainment.low >= share
    first = found.rows[0]
    assert first.attainment == found.choice.prediction.attainment


def test_a_share_can_change_the_choice() -> None:
    assert recommend(asked(None, tp=0), pool(2)).choice.tensor_parallel == 1
    assert recommend(asked(0.99, tp=0), pool(2)).choice.tensor_parallel == 2


def test_a_higher_share_never_allows_a_higher_rate() -> None:
    config = gpu_configuration(asked(None), SHAPE, gpus.find("h100-sxm-80gb"), 1)
    rates = [
        capacity(RooflineEstimator(), config, WORK, Objectives(GOALS, share)).rate_per_s
        for share in (0.5, 0.9, 0.95, 0.98, 0.999)
    ]
    # A share takes more requests to tell, which moves percentiles too: the search's own step.
    assert all(later <= 1.04 * earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == 0.0


def fleet_share(choice: Choice, replicas: int, rate: float) -> float:
    """The share that so many replicas keep at a rate, with other traffic than the table saw."""
    members = tuple(Member(choice.step, limits_of_choice(choice)) for _ in range(replicas))
    report = simulate(members, WORK, rate, count=3000 * replicas, seed=5)
    doubt = doubt_of(emulated=True, device=choice.device)
    return report.attainment(GOALS, slower=doubt.of)


def test_the_scaler_keeps_the_share_too() -> None:
    choice = recommend(replace(asked(0.99), engine="emulator"), pool(8)).choice
    strict, loose = (
        capacity_table(choice, goals=Objectives(GOALS, share), workload=WORK, most=2)
        for share in (0.99, None)
    )
    assert fleet_share(choice, 2, strict.rate(2)) == pytest.approx(0.99, abs=0.002)
    # By the percentiles alone, pooling seems to gain more than the share allows.
    assert loose.rate(2) > strict.rate(2)


def test_a_share_near_one_is_told_by_more_requests() -> None:
    assert requests_for(1.0, Objectives(GOALS)) == FEWEST_REQUESTS
    assert requests_for(1.0, Objectives(GOALS, 0.99)) == MOST_REQUESTS
    assert requests_for(1.0, Objectives(GOALS, 0.95)) == pytest.approx(500, abs=1)
    assert requests_for(1.0, Objectives(GOALS, 1.0)) == MOST_REQUESTS
    assert requests_for(1.0, Objectives(GOALS, 0.9), replicas=8) == 8 * FEWEST_REQUESTS


def service(goals: dict[str, object]) -> Demand:
    chat = {"model": "meta-llama/Llama-3.1-8B", "traffic": {"peak": "6/s"}, "goals": goals}
    spec = Spec.from_data({"version": 1, "name": "demo", "services": {"chat": chat}})
    return demand_for("chat", spec.services["chat"], shape=SHAPE)


def test_both_shares_reach_sizing_only_when_they_are_stated() -> None:
    silent, stated = (
        service({"ttft": "400ms", **more})
        for more in ({}, {"attainment": "98%", "success_rate": "99.5%"})
    )
    assert (silent.attainment, silent.success_rate) == (None, None)
    assert (stated.attainment, stated.success_rate) == (0.98, 0.995)
    assert demand_key(silent) != demand_key(stated)
    assert demand_key(stated) == demand_key(replace(stated, success_rate=None))
    goals = Spec.from_data(
        {
            "version": 1,
            "name": "demo",
            "services": {
                "chat": {
                    "model": "m",
                    "traffic": {"peak": "1/s"},
                    "goals": {"ttft": "1s", "attainment": 0.9},
                }
            },
        }
    )
    assert goals_of(goals.services["chat"].goals) == Objectives((Goal("ttft", 95, 1.0),), 0.9)


def test_no_number_is_invented_for_the_success_rate() -> None:
    quiet = recommend(service({"ttft": "400ms"}), pool(1))
    assert quiet.not_predicted == ()
    told = recommend(service({"ttft": "400ms", "success_rate": "99.5%"}), pool(1))
    assert len(told.not_predicted) == 1
    assert told.not_predicted[0].startswith("success rate >= 99.5 %: the model has no queue limit")
    assert told.choice == quiet.choice
