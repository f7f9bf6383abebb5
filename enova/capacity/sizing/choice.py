"""What sizing picked for one service: the value that ``enova.lock`` holds and ``stack`` builds on.

A ``Choice`` is complete: the engine's command line follows from it and the engine facts of its
version, without the performance model. Numbers in it are rounded, so a lock file reads well and
does not move with the last digit of a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from enova.capacity.perf.point import Figure, LinearStepTime


@dataclass(frozen=True)
class Prediction:
    """What one replica is expected to do at ``rate_per_s`` arrivals per second.

    ``latencies`` in seconds, keyed ``ttft_p95``; ``tokens_per_s`` output tokens; ``running`` the
    mean number of sequences in a step; ``kv_tokens`` what the KV cache holds; ``attainment`` the
    share of requests within every goal.
    """

    rate_per_s: float
    latencies: Mapping[str, Figure]
    tokens_per_s: Figure
    running: Figure
    kv_tokens: Figure
    attainment: Figure

    @classmethod
    def from_plain(cls, data: Mapping[str, object]) -> Prediction:
        """The prediction written by ``base.digest.plain``. Raises ValueError."""
        return cls(
            rate_per_s=_number(data, "rate_per_s"),
            latencies={
                str(key): Figure.from_plain(_mapping(value, str(key)))
                for key, value in sorted(_mapping(data.get("latencies"), "latencies").items())
            },
            tokens_per_s=Figure.from_plain(_mapping(data.get("tokens_per_s"), "tokens_per_s")),
            running=Figure.from_plain(_mapping(data.get("running"), "running")),
            kv_tokens=Figure.from_plain(_mapping(data.get("kv_tokens"), "kv_tokens")),
            attainment=Figure.from_plain(_mapping(data.get("attainment"), "attainment")),
        )


@dataclass(frozen=True)
class Choice:
    """One service's configuration.

    ``device`` is a GPU type of the catalog or ``cpu``; a replica takes ``tensor_parallel *
    pipeline_parallel`` of them on one host. The KV cache is bounded by ``gpu_memory_utilization``
    (a share of device memory) or, on ``cpu``, by ``kv_cache_memory_bytes``; the other is None.
    ``kv_blocks`` is the predicted capacity in blocks of ``block_size`` tokens. ``replicas`` serve
    the peak; each takes up to ``rate_per_replica`` requests/s within the goals. ``step`` is the
    step law of one replica: the emulator runs it, live calibration starts from it. ``weight`` is
    the gateway's share for a replica. ``pretends`` is the device an emulated engine times itself
    by. ``memory_bytes`` is what a replica loads onto GPUs, or the host memory it takes on ``cpu``.
    ``usd_per_hour`` is for all replicas, None when unpriced.
    """

    service: str
    engine: str
    engine_version: str
    model: str
    revision: str | None
    device: str
    tensor_parallel: int
    pipeline_parallel: int
    quantization: str | None
    kv_cache_dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float | None
    kv_cache_memory_bytes: int | None
    kv_blocks: int
    block_size: int
    replicas: int
    rate_per_replica: float
    step: LinearStepTime
    prediction: Prediction
    weight: int = 100
    pretends: str | None = None
    cores: int = 0
    memory_bytes: int = 0
    usd_per_hour: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def devices_per_replica(self) -> int:
        """Devices one replica holds on its host."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def emulated(self) -> bool:
        """True when the engine only pretends to have the device."""
        return self.engine == "emulator"

    @classmethod
    def from_plain(cls, data: Mapping[str, object]) -> Choice:
        """The choice written by ``base.digest.plain``.

        Raises ValueError that names the first field which is missing or of the wrong type.
        """
        return cls(
            service=_text(data, "service"),
            engine=_text(data, "engine"),
            engine_version=_text(data, "engine_version"),
            model=_text(data, "model"),
            revision=_optional_text(data, "revision"),
            device=_text(data, "device"),
            tensor_parallel=_count(data, "tensor_parallel"),
            pipeline_parallel=_count(data, "pipeline_parallel"),
            quantization=_optional_text(data, "quantization"),
            kv_cache_dtype=_text(data, "kv_cache_dtype"),
            max_model_len=_count(data, "max_model_len"),
            max_num_seqs=_count(data, "max_num_seqs"),
            max_num_batched_tokens=_count(data, "max_num_batched_tokens"),
            gpu_memory_utilization=_optional_number(data, "gpu_memory_utilization"),
            kv_cache_memory_bytes=_optional_count(data, "kv_cache_memory_bytes"),
            kv_blocks=_count(data, "kv_blocks"),
            block_size=_count(data, "block_size"),
            replicas=_count(data, "replicas"),
            rate_per_replica=_number(data, "rate_per_replica"),
            step=_step(data),
            prediction=Prediction.from_plain(_mapping(data.get("prediction"), "prediction")),
            weight=_count(data, "weight"),
            pretends=_optional_text(data, "pretends"),
            cores=_count(data, "cores"),
            memory_bytes=_count(data, "memory_bytes"),
            usd_per_hour=_optional_number(data, "usd_per_hour"),
            env={str(k): str(v) for k, v in sorted(_mapping(data.get("env"), "env").items())},
            notes=_texts(data, "notes"),
        )


def _step(data: Mapping[str, object]) -> LinearStepTime:
    step = _mapping(data.get("step"), "step")
    return LinearStepTime(
        base=_number(step, "base"),
        per_prefill_token=_number(step, "per_prefill_token"),
        per_decode=_number(step, "per_decode"),
        per_context_token=_number(step, "per_context_token"),
    )


def _mapping(value: object, key: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: a mapping is needed, not {value!r}")
    return value


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: a text is needed, not {value!r}")
    return value


def _optional_text(data: Mapping[str, object], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key)


def _count(data: Mapping[str, object], key: str) -> int:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key}: an integer is needed, not {value!r}")
    return value


def _optional_count(data: Mapping[str, object], key: str) -> int | None:
    return None if data.get(key) is None else _count(data, key)


def _number(data: Mapping[str, object], key: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{key}: a number is needed, not {value!r}")
    return float(value)


def _optional_number(data: Mapping[str, object], key: str) -> float | None:
    return None if data.get(key) is None else _number(data, key)


def _texts(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key, ())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{key}: a list is needed, not {value!r}")
    return tuple(str(item) for item in value)
