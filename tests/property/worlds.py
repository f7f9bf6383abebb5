"""Random worlds: a pool, what was applied, what went wrong since, what is asked for now."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from enova.capacity.inventory import Device, Host, Inventory
from enova.capacity.perf.point import Figure, LinearStepTime
from enova.capacity.sizing.choice import Choice, Prediction
from enova.spec.load import load_document
from enova.stack.plan import Ask

GPU = "h100-sxm-80gb"
SERVICES = ("alpha", "beta", "gamma")
_FIGURE = Figure(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Wish:
    """One service as asked for: enough to make its spec and its choice."""

    name: str
    replicas: int
    seqs: int
    weight: int
    surge: int
    unavailable: int
    priority: int


def ask_for(wishes: tuple[Wish, ...], *, port: int) -> Ask:
    """The spec and choices of some wishes."""
    document: dict[str, object] = {
        "version": 1,
        "name": "world",
        "services": {
            wish.name: {
                "model": "org/model",
                "engine": "emulator",
                "traffic": {"peak": "1/s"},
                "scale": {"min": 1, "max": 8},
                "rollout": {"surge": wish.surge, "max_unavailable": wish.unavailable},
                "priority": wish.priority,
            }
            for wish in wishes
        },
        "gateway": {"port": port},
    }
    choices = {wish.name: _choice(wish) for wish in wishes}
    return Ask(load_document(document), document, choices)


def pool(gpus: int) -> Inventory:
    """One host with so many GPUs."""
    devices = tuple(Device(i, GPU, 80 * 2**30) for i in range(gpus))
    return Inventory((Host("local", devices),))


def _choice(wish: Wish) -> Choice:
    return Choice(
        service=wish.name,
        engine="emulator",
        engine_version="1",
        model="org/model",
        revision=None,
        device=GPU,
        tensor_parallel=1,
        pipeline_parallel=1,
        quantization=None,
        kv_cache_dtype="auto",
        max_model_len=4096,
        max_num_seqs=wish.seqs,
        max_num_batched_tokens=2048,
        gpu_memory_utilization=0.9,
        kv_cache_memory_bytes=None,
        kv_blocks=1000,
        block_size=16,
        replicas=wish.replicas,
        rate_per_replica=5.0,
        step=LinearStepTime(0.01, 1e-5, 1e-5, 1e-8),
        prediction=Prediction(1.0, {}, _FIGURE, _FIGURE, _FIGURE, _FIGURE),
        weight=wish.weight,
    )


def wishes() -> st.SearchStrategy[tuple[Wish, ...]]:
    """Some services, each once."""

    def of(name: str) -> st.SearchStrategy[Wish]:
        return st.builds(
            Wish,
            name=st.just(name),
            replicas=st.integers(1, 4),
            seqs=st.sampled_from([16, 32, 64]),
            weight=st.sampled_from([50, 100]),
            surge=st.integers(1, 2),
            unavailable=st.integers(0, 1),
            priority=st.sampled_from([50, 100]),
        )

    names = st.lists(st.sampled_from(SERVICES), unique=True, min_size=1, max_size=3)
    return names.flatmap(lambda chosen: st.tuples(*(of(name) for name in sorted(chosen))))
