"""The emulator's command line: vLLM's spelling where vLLM has the flag, its own for the rest.

In: argument words. Out: one frozen ``EmulatorConfig``, or exit code 2 and a line that names what
was refused, as vLLM does. Flags that mean something to a real engine only are accepted from a
fixed list, checked, and reported as having no effect.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NoReturn

from enova.capacity.perf.point import LinearStepTime
from enova.capacity.sim.replica import ReplicaLimits
from enova.services.emulator.faults import Faults
from enova.services.emulator.meter import BUCKET_FAMILIES

SURFACE_VERSION = "0.32.0"
"""The vLLM release whose answers and metrics are imitated."""

DEFAULT_LAW = LinearStepTime(
    base=0.006, per_prefill_token=27e-6, per_decode=30e-6, per_context_token=50e-9
)
"""Roughly an 8 B model in 16 bit on one H100: weights read once a step, the rest by tokens."""


@dataclass(frozen=True)
class EmulatorConfig:
    """Everything one emulator process needs to know. Times in seconds."""

    model: str
    names: tuple[str, ...]
    host: str
    port: int
    limits: ReplicaLimits
    law: LinearStepTime
    time_scale: float
    output_mean: float
    output_cv: float
    seed: int
    shutdown_timeout: float
    start_delay: float
    refuse_start: str | None
    oom_at_start: bool
    faults: Faults
    api_keys: tuple[str, ...] = ()
    request_id_headers: bool = False
    load_tracking: bool = False
    max_queued_requests: int | None = None
    max_queued_tokens: int | None = None
    buckets: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    surface_version: str = SURFACE_VERSION
    without_effect: tuple[str, ...] = ()


class _Parser(argparse.ArgumentParser):
    """Refuses with one line, so that the last line of a log is the reason."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _count(text: str) -> int:
    """A positive whole number, with vLLM's 8k (8000) and 8K (8192)."""
    number, unit = text, 1
    if text[-1:] in _UNITS:
        number, unit = text[:-1], _UNITS[text[-1]]
    value = int(number) * unit
    if value < 1:
        raise ValueError(text)
    return value


_UNITS = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    return int(text)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise ValueError(text)
    return value


def _law(text: str) -> dict[str, float]:
    data = json.loads(text)
    known = {item.name for item in fields(LinearStepTime)}
    if not isinstance(data, dict) or not set(data) <= known:
        raise argparse.ArgumentTypeError(
            f"a JSON object with the keys {', '.join(sorted(known))} is needed, not {text!r}"
        )
    return {key: _not_negative(str(value)) for key, value in data.items()}


def _buckets(text: str) -> dict[str, tuple[float, ...]]:
    data = json.loads(text)
    if not isinstance(data, dict) or not set(data) <= set(BUCKET_FAMILIES):
        raise argparse.ArgumentTypeError(
            f"a JSON object with keys out of {', '.join(BUCKET_FAMILIES)} is needed, not {text!r}"
        )
    edges = {key: tuple(_positive(str(edge)) for edge in value) for key, value in data.items()}
    for key, values in edges.items():
        if not values or list(values) != sorted(set(values)):
            raise argparse.ArgumentTypeError(f"the edges of {key} must increase strictly")
    return edges


# What argparse calls a type in its message.
for _type, _name in (
    (_count, "positive count"),
    (_not_negative, "number from 0"),
    (_positive, "positive number"),
    (_share, "share"),
    (_whole, "whole number"),
    (_port, "port"),
    (_law, "step law"),
    (_buckets, "bucket"),
):
    _type.__name__ = _name

_VALUES_WITHOUT_EFFECT: Mapping[str, Callable[[str], object]] = {
    "data-parallel-size": _count,
    "dtype": str,
    "generation-config": str,
    "gpu-memory-utilization": _share,
    "kv-cache-dtype": str,
    "kv-cache-memory-bytes": _count,
    "load-format": str,
    "pipeline-parallel-size": _count,
    "quantization": str,
    "revision": str,
    "tensor-parallel-size": _count,
    "tokenizer": str,
    "uvicorn-log-level": str,
}
_SWITCHES_WITHOUT_EFFECT = (
    "async-scheduling",
    "enable-chunked-prefill",
    "enable-expert-parallel",
    "enforce-eager",
    "trust-remote-code",
)


def _parser() -> _Parser:
    parser = _Parser(
        prog="enova emulator",
        description="An emulator of a vLLM server: its HTTP surface and metrics without a GPU. "
        "Answers are filler words; timing comes from a step law and the replica model. "
        "A token is four bytes of text. The request fields stop, logprobs, tools, "
        "response_format and sampling parameters are accepted and ignored.",
        allow_abbrev=False,
    )
    vllm = parser.add_argument_group("as vLLM spells them")
    vllm.add_argument("model_tag", nargs="?", metavar="MODEL")
    vllm.add_argument("--model")
    vllm.add_argument("--served-model-name", nargs="+", default=[])
    vllm.add_argument("--host", default="127.0.0.1")
    vllm.add_argument("--port", type=_port, default=8000)
    vllm.add_argument("--max-model-len", type=_count, default=8192)
    vllm.add_argument("--max-num-seqs", type=_count, default=256)
    vllm.add_argument("--max-num-batched-tokens", type=_count, default=8192)
    vllm.add_argument("--block-size", type=_count, default=16)
    vllm.add_argument("--num-gpu-blocks-override", "--kv-blocks", type=_count, default=25_000)
    vllm.add_argument(
        "--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True
    )
    vllm.add_argument("--shutdown-timeout", type=_not_negative, default=0.0)
    vllm.add_argument("--max-num-queued-reqs", type=_count)
    vllm.add_argument("--max-num-queued-tokens", type=_count)
    vllm.add_argument("--custom-histogram-buckets", type=_buckets, default={})
    vllm.add_argument("--api-key", nargs="+", default=[])
    vllm.add_argument("--enable-request-id-headers", action="store_true")
    vllm.add_argument("--enable-server-load-tracking", action="store_true")
    vllm.add_argument("--seed", type=_whole, default=0, help="seeds output lengths")

    own = parser.add_argument_group("emulation")
    own.add_argument("--time-scale", type=_positive, default=1.0, help="10: ten times faster")
    own.add_argument("--step-law", type=_law, default={}, help="JSON of the four below")
    own.add_argument("--step-base", type=_not_negative, help="seconds of every step")
    own.add_argument("--step-per-prefill-token", type=_not_negative)
    own.add_argument("--step-per-decode", type=_not_negative)
    own.add_argument("--step-per-context-token", type=_not_negative)
    own.add_argument("--output-mean", type=_positive, default=200.0, help="tokens of an answer")
    own.add_argument("--output-cv", type=_not_negative, default=0.7, help="its spread, 0: fixed")
    own.add_argument("--surface-version", default=SURFACE_VERSION)

    fault = parser.add_argument_group("faults (live ones also by POST /emulator/faults)")
    fault.add_argument("--start-delay", type=_not_negative, default=0.0)
    fault.add_argument("--refuse-start", metavar="MESSAGE")
    fault.add_argument("--oom-at-start", action="store_true")
    fault.add_argument("--fault-slow", type=_positive, default=1.0, metavar="FACTOR")
    fault.add_argument("--fault-hang", action="store_true")
    fault.add_argument("--fault-unavailable", action="store_true")
    fault.add_argument("--fault-crash-after", type=_count, metavar="REQUESTS")
    fault.add_argument("--fault-crash-code", type=_count, default=1)

    ignored = parser.add_argument_group("accepted as vLLM's, without effect here")
    for name, kind in sorted(_VALUES_WITHOUT_EFFECT.items()):
        ignored.add_argument(f"--{name}", type=kind)
    for name in _SWITCHES_WITHOUT_EFFECT:
        ignored.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    return parser


def parse(argv: Sequence[str]) -> EmulatorConfig:
    """The configuration in ``argv``. Exits with code 2 on an unknown flag or a bad value.

    Raises ValueError for limits an engine would refuse when it starts.
    """
    parser = _parser()
    args = parser.parse_args([_dashed(word) for word in argv])
    model = args.model_tag or args.model
    if model is None:
        parser.error("a model is needed: enova emulator MODEL")
    law = {item.name: getattr(DEFAULT_LAW, item.name) for item in fields(LinearStepTime)}
    law |= args.step_law
    for name in law:
        given = getattr(args, f"step_{name}")
        if given is not None:
            law[name] = given
    ignored = (*_VALUES_WITHOUT_EFFECT, *_SWITCHES_WITHOUT_EFFECT)
    return EmulatorConfig(
        model=model,
        names=tuple(args.served_model_name) or (model,),
        host=args.host,
        port=args.port,
        limits=ReplicaLimits(
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens,
            max_model_len=args.max_model_len,
            kv_blocks=args.num_gpu_blocks_override,
            block_size=args.block_size,
            prefix_caching=args.enable_prefix_caching,
        ),
        law=LinearStepTime(**law),
        time_scale=args.time_scale,
        output_mean=args.output_mean,
        output_cv=args.output_cv,
        seed=args.seed,
        shutdown_timeout=args.shutdown_timeout,
        start_delay=args.start_delay,
        refuse_start=args.refuse_start,
        oom_at_start=args.oom_at_start,
        faults=Faults(
            slow=args.fault_slow,
            hang=args.fault_hang,
            unavailable=args.fault_unavailable,
            crash_after=args.fault_crash_after,
            crash_code=args.fault_crash_code,
        ),
        api_keys=tuple(args.api_key),
        request_id_headers=args.enable_request_id_headers,
        load_tracking=args.enable_server_load_tracking,
        max_queued_requests=args.max_num_queued_reqs,
        max_queued_tokens=args.max_num_queued_tokens,
        buckets=args.custom_histogram_buckets,
        surface_version=args.surface_version,
        without_effect=tuple(
            sorted(
                f"--{name}" for name in ignored if getattr(args, name.replace("-", "_")) is not None
            )
        ),
    )


def _dashed(word: str) -> str:
    """vLLM takes ``--max_model_len`` for ``--max-model-len``."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value
