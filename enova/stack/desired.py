"""The stack a spec and its locked choices ask for.

In: the spec, one ``Choice`` a service, the images to run. Out: a ``Stack``. The optimizer is never
called here: production changes only when spec or lock change. Arguments a user wrote in
``engine.args`` win over the computed ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from enova.base.address import GATEWAY
from enova.base.digest import plain
from enova.capacity.catalog import engines
from enova.capacity.inventory import CPU
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.from_spec import goals_of
from enova.spec.model import Gateway, SecretReference, Service, Spec
from enova.stack import edges, monitoring, reconciling
from enova.stack.references import secret_ref
from enova.stack.render import otel
from enova.stack.resources import (
    GatewayResource,
    KeyReference,
    MonitorResource,
    Needs,
    ReplicaTemplate,
    Rollout,
    Route,
    Scalar,
    ServiceResource,
    Stack,
    Traces,
)

MOST_REPLICAS = 64
"""Upper bound where the spec states none; the pool's room is the real one."""

NO_IMAGES: Mapping[str, str] = MappingProxyType({})

START_TIMEOUT_S = 300.0
START_TIMEOUT_PER_GIB_S = 6.0
"""Grace for a start: a constant for compiling, and reading weights at 170 MiB/s."""


def build(
    spec: Spec,
    choices: Mapping[str, Choice],
    *,
    monitors: Collection[str],
    images: Mapping[str, str] = NO_IMAGES,
) -> Stack:
    """The resources that should run.

    ``monitors``: names of those that the target can run, and ``reconciler`` if it can run that.
    ``images``: references by what they are
    for (``stack.images.used``); what is not in it is the spec's, or the target's own.
    """
    programs = tuple(
        replace(one, image=images.get(one.address, one.image))
        for one in monitoring.monitors(spec, choices, runs=monitors)
    )
    traces = _traces(spec, programs)
    services = tuple(
        _service(name, spec.services[name], choices[name], traces) for name in sorted(spec.services)
    )
    gateway = _gateway(spec.gateway, services, traces)
    return Stack(
        name=spec.name,
        services=tuple(_with_image(one, images.get(one.name)) for one in services),
        gateway=replace(gateway, image=images.get(GATEWAY)),
        monitors=programs,
        reconciler=reconciling.reconciler(spec, services, gateway, programs, runs=monitors),
    )


def _with_image(service: ServiceResource, image: str | None) -> ServiceResource:
    if image is None:
        return service
    return replace(service, template=replace(service.template, image=image))


def _traces(spec: Spec, programs: Iterable[MonitorResource]) -> Traces | None:
    """Gateway and engines send spans where the stack has a collector for them."""
    if all(program.name != monitoring.OTEL_COLLECTOR for program in programs):
        return None
    return Traces(otel.endpoint(monitoring.OTEL_COLLECTOR), spec.monitoring.otel.sampling)


def _service(name: str, service: Service, choice: Choice, traces: Traces | None) -> ServiceResource:
    scale = service.scale
    least = 0 if scale.to_zero else max(scale.min, 1)
    most = scale.max if scale.max is not None else MOST_REPLICAS
    return ServiceResource(
        name=name,
        template=_template(name, service, choice, traces),
        initial_count=min(max(choice.replicas, least), most),
        least=least,
        most=most,
        rollout=Rollout(service.rollout.surge, service.rollout.max_unavailable),
        priority=service.priority,
        protect=service.protect,
    )


def _template(
    name: str, service: Service, choice: Choice, traces: Traces | None
) -> ReplicaTemplate:
    engine = service.engine
    drain_s = service.rollout.drain_timeout
    args = _engine_args(choice, shutdown_s=drain_s, traces=traces)
    facts = engines.facts(choice.engine, choice.engine_version)
    args.update(edges.arguments(facts, goals_of(service.goals).goals))
    args.update(engine.args)
    env = {**choice.env}
    env.update({key: value for key, value in engine.env.items() if isinstance(value, str)})
    secrets = {
        key: secret_ref(value)
        for key, value in engine.env.items()
        if isinstance(value, SecretReference)
    }
    on_cpu = choice.device == CPU
    start_s = engine.start_timeout
    if start_s is None:
        start_s = START_TIMEOUT_S + START_TIMEOUT_PER_GIB_S * choice.memory_bytes / 2**30
    return ReplicaTemplate(
        service=name,
        engine=choice.engine,
        engine_version=choice.engine_version,
        executable=engine.executable or "",
        image=engine.image,
        model=choice.model,
        served_name=service.model.served_name or name,
        args=tuple(sorted((flag, value) for flag, value in args.items() if value is not False)),
        env=tuple(sorted(env.items())),
        secret_env=tuple(sorted(secrets.items())),
        needs=Needs(
            gpu_type=None if on_cpu else choice.device,
            gpus=0 if on_cpu else choice.devices_per_replica,
            cores=choice.cores if on_cpu else 0,
            memory_bytes=choice.memory_bytes if on_cpu else 0,
        ),
        start_timeout_s=start_s,
        drain_timeout_s=drain_s,
        weight=choice.weight,
        pinned=_pinned(service),
    )


def _pinned(service: Service) -> tuple[str, ...]:
    """What the spec states: engine arguments, also as fields of the model, and the image."""
    stated = {flag.replace("_", "-") for flag in service.engine.args}
    if service.model.max_model_len is not None:
        stated.add("max-model-len")
    if service.model.quantization is not None:
        stated.add("quantization")
    if service.engine.image is not None:
        stated.add("engine.image")
    return tuple(sorted(stated))


def _engine_args(choice: Choice, *, shutdown_s: float, traces: Traces | None) -> dict[str, Scalar]:
    """The computed arguments, spelled as this version of the engine spells them."""
    flags = engines.facts(choice.engine, choice.engine_version).flags
    values: dict[str, Scalar] = {
        "max_model_len": choice.max_model_len,
        "max_num_seqs": choice.max_num_seqs,
        "max_num_batched_tokens": choice.max_num_batched_tokens,
        "shutdown_timeout": int(shutdown_s),
    }
    if choice.emulated:
        values["kv_blocks"] = choice.kv_blocks
        values["block_size"] = choice.block_size
        values["step"] = json.dumps(plain(choice.step), sort_keys=True)
    else:
        values["tensor_parallel"] = _above_one(choice.tensor_parallel)
        values["pipeline_parallel"] = _above_one(choice.pipeline_parallel)
        values["quantization"] = choice.quantization
        values["revision"] = choice.revision
        values["kv_cache_dtype"] = (
            None if choice.kv_cache_dtype == "auto" else choice.kv_cache_dtype
        )
        values["kv_cache_memory_bytes"] = choice.kv_cache_memory_bytes
        values["gpu_memory_utilization"] = choice.gpu_memory_utilization
        values["traces_endpoint"] = traces.endpoint if traces else None
    return {
        flags[field]: value
        for field, value in values.items()
        if value is not None and field in flags
    }


def _above_one(ways: int) -> int | None:
    return ways if ways > 1 else None


def _gateway(
    gateway: Gateway, services: tuple[ServiceResource, ...], traces: Traces | None
) -> GatewayResource:
    return GatewayResource(
        host=gateway.host,
        port=gateway.port,
        routing=gateway.routing,
        routes=tuple(Route(s.name, s.template.served_name) for s in services),
        keys=tuple(
            KeyReference(key.name, secret_ref(key.secret), key.rate) for key in gateway.api_keys
        ),
        max_body_bytes=gateway.limits.max_body,
        rate=gateway.limits.rate,
        max_pending=gateway.limits.max_pending,
        max_requests=gateway.limits.max_requests,
        idle_timeout_s=gateway.limits.idle_timeout,
        tls_certificate=gateway.tls.certificate if gateway.tls else None,
        tls_key=gateway.tls.key if gateway.tls else None,
        traces=traces,
    )
