"""What a person who wrote an unknown word probably meant, also when they know other tools' words.

In: the word and the words that are possible. Out: the most likely one, or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_OTHER_TOOLS: Mapping[str, tuple[str, ...]] = {
    "slo": ("goals",),
    "slos": ("goals",),
    "sla": ("goals",),
    "objectives": ("goals",),
    "targets": ("goals",),
    "latency": ("goals",),
    "replicas": ("scale", "max"),
    "num_replicas": ("scale", "max"),
    "autoscaling": ("scale",),
    "scaling": ("scale",),
    "replica_policy": ("scale",),
    "minimum": ("min",),
    "min_replicas": ("min", "scale"),
    "min_replica": ("min", "scale"),
    "maximum": ("max",),
    "max_replicas": ("max", "scale"),
    "max_replica": ("max", "scale"),
    "scale_to_zero": ("to_zero",),
    "cooldown": ("hold",),
    "stabilization_window": ("hold",),
    "idle_timeout": ("idle",),
    "max_surge": ("surge",),
    "strategy": ("rollout", "routing"),
    "update": ("rollout",),
    "deploy": ("rollout",),
    "load": ("traffic",),
    "workload": ("traffic",),
    "rps": ("peak", "traffic"),
    "qps": ("peak", "traffic"),
    "request_rate": ("peak", "traffic"),
    "rate": ("peak",),
    "max_rate": ("peak",),
    "prompt_tokens": ("input_tokens",),
    "input_len": ("input_tokens",),
    "input_length": ("input_tokens",),
    "prompt_len": ("input_tokens",),
    "completion_tokens": ("output_tokens",),
    "output_len": ("output_tokens",),
    "output_length": ("output_tokens",),
    "max_tokens": ("output_tokens",),
    "prefix_cache": ("prefix_reuse",),
    "cache_hit_rate": ("prefix_reuse",),
    "time_to_first_token": ("ttft",),
    "time_per_output_token": ("tpot",),
    "inter_token_latency": ("itl",),
    "end_to_end": ("e2e",),
    "availability": ("success_rate",),
    "model_id": ("id", "model"),
    "model_name": ("id", "model"),
    "hf_id": ("id", "model"),
    "repo": ("id",),
    "path": ("id", "file"),
    "commit": ("revision",),
    "tag": ("revision", "image"),
    "branch": ("revision",),
    "quant": ("quantization",),
    "context_length": ("max_model_len",),
    "max_context": ("max_model_len",),
    "ctx": ("max_model_len",),
    "max_length": ("max_model_len",),
    "alias": ("served_name",),
    "served_model_name": ("served_name",),
    "server": ("engine", "gateway"),
    "runtime": ("engine", "target"),
    "backend": ("engine", "target"),
    "binary": ("executable",),
    "docker_image": ("image",),
    "container": ("image",),
    "extra_args": ("args",),
    "arguments": ("args",),
    "flags": ("args",),
    "parameters": ("args",),
    "envs": ("env",),
    "environment": ("env",),
    "variables": ("env",),
    "load_balancer": ("gateway",),
    "loadbalancer": ("gateway",),
    "lb": ("gateway",),
    "proxy": ("gateway",),
    "ingress": ("gateway",),
    "router": ("gateway",),
    "listen": ("host",),
    "bind": ("host",),
    "auth": ("api_keys",),
    "keys": ("api_keys",),
    "tokens": ("api_keys",),
    "policy": ("routing",),
    "ssl": ("tls",),
    "cert": ("certificate",),
    "private_key": ("key",),
    "cluster": ("pool",),
    "resources": ("pool",),
    "gpus": ("gpu", "devices", "pool"),
    "accelerators": ("gpu", "devices", "pool"),
    "accelerator": ("gpu",),
    "type": ("gpu", "target"),
    "number": ("count",),
    "cpus": ("cores", "cpu"),
    "ram": ("memory",),
    "mem": ("memory",),
    "nodes": ("hosts",),
    "machines": ("hosts",),
    "servers": ("hosts",),
    "provider": ("target",),
    "platform": ("target",),
    "driver": ("target",),
    "ip": ("address",),
    "hostname": ("address", "name"),
    "ssh": ("address",),
    "cost": ("prices", "budget"),
    "max_cost": ("budget",),
    "hourly_budget": ("budget",),
    "metrics": ("monitoring",),
    "observability": ("monitoring",),
    "interval": ("scrape_interval",),
    "models": ("services",),
    "deployments": ("services",),
    "stack": ("name",),
    "value": ("env",),
    "variable": ("env",),
    "cmd": ("command",),
}
"""Words of other tools, with ours for it; the first that is possible in that place is meant."""

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def normal(word: str) -> str:
    """``maxModelLen`` and ``max-model-len`` as ``max_model_len``."""
    return _CAMEL.sub("_", word).lower().replace("-", "_").replace(" ", "_")


def nearest(word: str, possible: Iterable[str]) -> str | None:
    """The possible word that was meant: spelt otherwise, another tool's, or near by letters."""
    choices = list(possible)
    plain = normal(word[:80])
    by_normal = {normal(choice): choice for choice in choices}
    if plain in by_normal:
        return by_normal[plain]
    for ours in _OTHER_TOOLS.get(plain, ()):
        if ours in by_normal:
            return by_normal[ours]
    import difflib  # only when there is something to tell: it is no part of a valid run

    close = difflib.get_close_matches(plain, list(by_normal), n=1, cutoff=0.66)
    return by_normal[close[0]] if close else None


def meant(word: str) -> tuple[str, ...]:
    """Our words for another tool's ``word``, whatever is possible in its place."""
    return _OTHER_TOOLS.get(normal(word[:80]), ())
