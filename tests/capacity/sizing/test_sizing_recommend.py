"""Sizing: the cheapest configuration that meets the goals, or what would make one fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from enova.base.digest import plain
from enova.base.errors import Infeasible, SpecError
from enova.capacity.catalog import models
from enova.capacity.catalog.config import read_config
from enova.capacity.catalog.shape import ModelShape
from enova.capacity.inventory import CPU, Claim, Device, Host, Inventory
from enova.capacity.perf.estimate import Calibration
from enova.capacity.perf.point import LinearStepTime
from enova.capacity.sim.replica import Replica
from enova.capacity.sim.report import Goal, Objectives
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.demand import Demand
from enova.capacity.sizing.from_spec import demand_for, demand_key
from enova.capacity.sizing.recommend import recommend
from enova.capacity.sizing.table import capacity_table, limits_of_choice
from enova.capacity.workload import Lengths, Workload
from enova.spec.model import Spec

GIB = 2**30
GOALS = (Goal("tpot", 95, 0.04), Goal("ttft", 95, 0.4))
WORK = Workload(6, 4, Lengths.fit(p50=400, p95=1200), Lengths.fit(p50=100, p95=300))


def shape_of(model: str) -> ModelShape:
    found = models.find(model)
    assert found is not None
    return found


LLAMA = shape_of("meta-llama/Llama-3.1-8B")
BIG = shape_of("meta-llama/Llama-3.1-70B")
TINY = read_config(
    {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 4096,
        "max_position_embeddings": 1024,
    }
)
LAPTOP = Inventory(
    (Host("local", (Device(0, CPU, 16 * GIB, "cpu", cores=4),), 4, 16 * GIB),),
)


def pool(**counts: int) -> Inventory:
    """``pool(h100_sxm_80gb=8)``: one host for each type."""
    return Inventory(
        tuple(
            Host(f"host-{name.replace('_', '-')}", tuple(_gpus(name, count)))
            for name, count in sorted(counts.items())
        )
    )


def _gpus(name: str, count: int) -> list[Device]:
    return [Device(i, name.replace("_", "-"), 0) for i in range(count)]


def demand(**changes: object) -> Demand:
    fields = {
        "service": "chat",
        "model": "meta-llama/Llama-3.1-8B",
        "shape": LLAMA,
        "workload": WORK,
        "goals": GOALS,
        **changes,
    }
    return Demand(**fields)


def test_the_cheapest_that_meets_the_goals_is_chosen_and_the_rest_explained() -> None:
    found = recommend(demand(), pool(h100_sxm_80gb=8, l4_24gb=4, l40s_48gb=8))
    choice = found.choice
    assert (choice.device, choice.tensor_parallel) == ("l40s-48gb", 1)
    assert choice.usd_per_hour == pytest.approx(choice.replicas * 0.99)
    for goal in GOALS:
        assert choice.prediction.latencies[goal.key].high <= goal.limit_s
    assert choice.rate_per_replica * choice.replicas * 0.85 >= WORK.peak_per_s * 0.999
    assert found.rows[0].verdict == "chosen"
    assert all(row.reason for row in found.rows[1:])
    assert {row.device for row in found.rows} >= {"h100-sxm-80gb", "l4-24gb", "l40s-48gb"}
    dearer = [row for row in found.rows if row.usd_per_hour is not None][1:]
    assert all(row.usd_per_hour >= choice.usd_per_hour for row in dearer)
    assert "not calibrated" in found.numbers
    assert len(found.sensitivity) == 3


def test_the_same_question_has_the_same_answer_and_survives_the_lock() -> None:
    first, second = (recommend(demand(), pool(h100_sxm_80gb=2)) for _ in range(2))
    assert first == second
    text = json.dumps(plain(first.choice))
    assert Choice.from_plain(json.loads(text)) == first.choice


@pytest.mark.parametrize("field", ["device", "replicas", "step", "prediction", "kv_blocks"])
def test_a_damaged_choice_names_the_field(field: str) -> None:
    data = plain(recommend(demand(), pool(h100_sxm_80gb=1)).choice)
    assert isinstance(data, dict)
    with pytest.raises(ValueError, match=field):
        Choice.from_plain({**data, field: None})


def test_cost_follows_the_price() -> None:
    inventory = pool(h100_sxm_80gb=4)
    one, two = (
        recommend(demand(prices={"h100-sxm-80gb": usd}), inventory).choice for usd in (1.0, 2.0)
    )
    assert two.usd_per_hour == 2 * (one.usd_per_hour or 0)
    assert replace(two, usd_per_hour=None, notes=()) == replace(one, usd_per_hour=None, notes=())


def test_a_price_can_change_the_choice() -> None:
    inventory = pool(h100_sxm_80gb=4, l40s_48gb=4)
    assert recommend(demand(), inventory).choice.device == "l40s-48gb"
    cheap = demand(prices={"H100": 0.5})
    assert recommend(cheap, inventory).choice.device == "h100-sxm-80gb"


def test_a_higher_peak_never_needs_fewer_replicas() -> None:
    counts = [
        recommend(
            demand(workload=replace(WORK, peak_per_s=peak), pinned={"tensor_parallel": 1}),
            pool(l40s_48gb=8),
        ).choice.replicas
        for peak in (4.0, 10.0, 30.0)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_what_the_user_fixed_stays() -> None:
    pinned = {
        "tensor_parallel": 2,
        "max_num_seqs": 48,
        "max_num_batched_tokens": 4096,
        "gpu_memory_utilization": 0.8,
        "max_model_len": 2048,
        "kv_cache_dtype": "fp8",
    }
    choice = recommend(demand(pinned=pinned), pool(h100_sxm_80gb=8)).choice
    assert {name: getattr(choice, name) for name in pinned} == pinned
    with pytest.raises(ValueError, match="cannot fix"):
        demand(pinned={"weights": 3})


def test_bounds_of_scaling_are_kept() -> None:
    assert recommend(demand(least=3), pool(h100_sxm_80gb=8)).choice.replicas == 3
    with pytest.raises(Infeasible, match=r"scale\.max is 1") as error:
        recommend(demand(workload=replace(WORK, peak_per_s=200.0), most=1), pool(h100_sxm_80gb=1))
    assert any("scale.max" in way for way in error.value.ways_out)


def test_devices_held_by_others_are_not_given_again() -> None:
    host = Host("a", tuple(Device(i, "h100-sxm-80gb", 0) for i in range(2)))
    taken = Inventory((host,), claims=(Claim("code/replica/0", "a", (0, 1)),))
    with pytest.raises(Infeasible, match="room for 0"):
        recommend(demand(), taken)


def test_too_little_memory_says_what_would_fit() -> None:
    with pytest.raises(Infeasible, match="Memory binds") as error:
        recommend(demand(shape=BIG, model="x"), pool(h100_sxm_80gb=1))
    assert error.value.ways_out == (
        "set model.quantization to fp8 (fits h100-sxm-80gb tp1)",
        "give one host 2 GPUs of type h100-sxm-80gb",
        "use a GPU of type b200-sxm-180gb",
    )
    fits = recommend(demand(shape=BIG, model="x", quantization="fp8"), pool(h100_sxm_80gb=2))
    assert fits.choice.quantization == "fp8"


def test_a_context_that_does_not_fit_says_which_one_does() -> None:
    asked = demand(pinned={"max_model_len": 131072})
    with pytest.raises(Infeasible) as error:
        recommend(asked, pool(l4_24gb=1))
    way = next(way for way in error.value.ways_out if "max_model_len" in way)
    length = int(way.split(" to ")[1].split()[0])
    loose = demand(pinned={"max_model_len": length}, goals=())
    assert recommend(loose, pool(l4_24gb=8)).choice.max_model_len == length


def test_a_goal_that_no_device_meets_offers_the_nearest_one() -> None:
    tight = demand(shape=BIG, model="x", goals=(Goal("ttft", 95, 0.02),))
    with pytest.raises(Infeasible, match="The latency goals bind") as error:
        recommend(tight, pool(h100_sxm_80gb=8))
    way = error.value.ways_out[0]
    assert way.startswith("relax ttft p95 to")
    limit = float(way.split(" to ")[1].split(" ms")[0]) / 1000
    eased = replace(tight, goals=(Goal("ttft", 95, limit),))
    assert recommend(eased, pool(h100_sxm_80gb=8)).choice.prediction.attainment.value > 0.95


def test_a_pool_that_is_too_small_says_how_much_is_missing() -> None:
    busy = demand(workload=replace(WORK, peak_per_s=500.0))
    with pytest.raises(Infeasible, match="number of replicas binds") as error:
        recommend(busy, pool(h100_sxm_80gb=2))
    more, less = error.value.ways_out
    missing = int(more.split()[1])
    assert recommend(busy, pool(h100_sxm_80gb=2 + missing)).choice.replicas == 2 + missing
    peak = float(less.split(" to ")[1].removesuffix("/s"))
    calmer = demand(workload=replace(WORK, peak_per_s=peak * 0.99))
    assert recommend(calmer, pool(h100_sxm_80gb=2)).choice.replicas == 2


def test_a_budget_binds() -> None:
    with pytest.raises(Infeasible, match="budget binds"):
        recommend(demand(), pool(h100_sxm_80gb=1), budget_usd_per_hour=1.0)


def test_a_pool_without_devices_is_said() -> None:
    with pytest.raises(Infeasible, match="no device"):
        recommend(demand(), Inventory(()))
    with pytest.raises(Infeasible, match="does not know this GPU"):
        recommend(demand(), pool(h900=1))


def test_emulated_engines_need_no_hardware() -> None:
    found = recommend(demand(engine="emulator"), LAPTOP)
    choice = found.choice
    assert (choice.device, choice.cores, choice.memory_bytes) == (CPU, 0, 0)
    assert choice.pretends == "h100-sxm-80gb"
    assert found.emulated
    assert found.numbers.startswith("emulated")
    assert found.rows[0].label.startswith("emulated h100-sxm-80gb")
    on_pool = recommend(demand(engine="emulator"), pool(l40s_48gb=4)).choice
    assert (on_pool.device, on_pool.pretends) == ("l40s-48gb", "l40s-48gb")


def test_the_emulator_can_run_what_was_chosen() -> None:
    choice = recommend(demand(engine="emulator"), LAPTOP).choice
    replica = Replica(choice.step, limits_of_choice(choice))
    assert replica.next_step_end() is None


def test_a_small_model_runs_on_a_processor() -> None:
    work = Workload(5, 5, Lengths.fit(mean=32), Lengths.fixed(16))
    asked = demand(shape=TINY, model="./tiny", workload=work, goals=(Goal("ttft", 95, 2.0),))
    found = recommend(asked, LAPTOP)
    choice = found.choice
    assert (choice.device, choice.cores, choice.max_model_len) == (CPU, 1, 1024)
    assert choice.kv_cache_memory_bytes and choice.gpu_memory_utilization is None
    assert choice.usd_per_hour is None
    assert "rough" in found.numbers
    with pytest.raises(Infeasible, match="at most 4"):
        recommend(replace(asked, pinned={"cores": 8}), LAPTOP)


def test_where_only_a_size_that_fits_once_is_quick_enough_more_cores_are_offered() -> None:
    work = Workload(5, 5, Lengths.fit(mean=32), Lengths.fixed(16))
    goals = (Goal("e2e", 95, 0.25),)
    asked = demand(shape=TINY, model="./tiny", workload=work, goals=goals, least=2)
    with pytest.raises(Infeasible, match="number of replicas binds: cpu x4") as error:
        recommend(asked, LAPTOP)
    assert "set scale.min to 1" in error.value.ways_out


def test_a_measured_law_wins_over_the_data_sheet() -> None:
    work = Workload(5, 5, Lengths.fit(mean=32), Lengths.fixed(16))
    law = LinearStepTime(0.004, 5e-5, 2e-4, 1e-7)
    asked = demand(
        shape=TINY,
        model="./tiny",
        workload=work,
        goals=(Goal("ttft", 95, 2.0),),
        calibrations={CPU: Calibration(law)},
    )
    choice = recommend(asked, LAPTOP).choice
    assert choice.step == law
    assert {f.source for f in choice.prediction.latencies.values()} == {"measured here"}


def test_without_goals_only_the_queue_must_not_grow() -> None:
    choice = recommend(demand(goals=()), pool(h100_sxm_80gb=1)).choice
    assert any("no goals stated" in note for note in choice.notes)
    strict = recommend(demand(), pool(h100_sxm_80gb=1)).choice
    assert choice.rate_per_replica >= strict.rate_per_replica


def test_the_capacity_table_rises_and_begins_with_the_choice() -> None:
    choice = recommend(demand(engine="emulator"), LAPTOP).choice
    table = capacity_table(choice, goals=Objectives(GOALS), workload=WORK, most=4)
    assert table.rows[0] == (1, choice.rate_per_replica)
    assert [count for count, _ in table.rows] == [1, 2, 4]
    for replicas in (2, 3, 4, 9):
        assert table.rate(replicas) >= replicas * choice.rate_per_replica * 0.999


SPEC = {
    "version": 1,
    "name": "demo",
    "services": {
        "chat": {
            "model": {"id": "meta-llama/Llama-3.1-8B", "max_model_len": 4096},
            "engine": {"name": "vllm", "args": {"max-num-seqs": 64, "enforce-eager": True}},
            "traffic": {"peak": "6/s", "input_tokens": {"mean": 400}, "output_tokens": 100},
            "goals": {"ttft": "400ms", "tpot": {"p99": "60ms"}},
            "scale": {"min": 2, "max": 4},
        }
    },
}


def from_spec(changes: dict[str, object]) -> Demand:
    chat = {**SPEC["services"]["chat"], **changes}
    spec = Spec.from_data({**SPEC, "services": {"chat": chat}})
    return demand_for("chat", spec.services["chat"], shape=LLAMA)


def test_a_spec_becomes_a_demand() -> None:
    found = from_spec({})
    assert found.goals == (Goal("tpot", 99, 0.06), Goal("ttft", 95, 0.4))
    assert (found.attainment, found.success_rate) == (None, None)
    assert (found.least, found.most) == (2, 4)
    assert found.pinned == {"max_num_seqs": 64, "max_model_len": 4096}
    assert found.workload.peak_per_s == found.workload.mean_per_s == 6
    assert found.workload.input.mean() == pytest.approx(400)
    choice = recommend(found, pool(h100_sxm_80gb=4)).choice
    assert (choice.replicas, choice.max_num_seqs, choice.max_model_len) == (2, 64, 4096)


def test_arguments_in_any_spelling_fix_the_choice() -> None:
    args = {"tensor_parallel_size": 2, "max-num-batched-tokens": "8k"}
    found = from_spec({"engine": {"name": "vllm", "args": args}})
    assert found.pinned["tensor_parallel"] == 2
    assert found.pinned["max_num_batched_tokens"] == 8000


@pytest.mark.parametrize(
    ("code", "changes", "path"),
    [
        (
            "E227",
            {"model": {"id": "meta-llama/Llama-3.1-8B", "quantization": "awq"}},
            ("services", "chat", "model", "quantization"),
        ),
        (
            "E228",
            {"traffic": {"peak": "6/s", "input_tokens": {"mean": 10, "p95": 9000}}},
            ("services", "chat", "traffic", "input_tokens"),
        ),
        (
            "E229",
            {"engine": {"name": "vllm", "version": "0.1.0"}},
            ("services", "chat", "engine", "version"),
        ),
        (
            "E230",
            {"engine": {"name": "vllm", "args": {"max-num-seqs": "many"}}},
            ("services", "chat", "engine", "args", "max-num-seqs"),
        ),
    ],
)
def test_what_cannot_be_sized_is_a_problem_at_its_place(
    code: str, changes: dict[str, object], path: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError) as error:
        from_spec(changes)
    assert [(problem.code, problem.path) for problem in error.value.problems] == [(code, path)]


def test_the_key_in_the_lock_follows_what_was_asked_and_nothing_else() -> None:
    base = from_spec({})
    assert demand_key(base) == demand_key(from_spec({}))
    faster = replace(base, calibrations={"h100-sxm-80gb": Calibration(LinearStepTime(1, 1, 1, 1))})
    assert demand_key(faster) == demand_key(base)
    stated = {"goals": {**SPEC["services"]["chat"]["goals"], "attainment": 0.9}}
    for change in ({"goals": {"ttft": "300ms"}}, {"scale": {"min": 1, "max": 4}}, stated):
        assert demand_key(from_spec(change)) != demand_key(base)
