"""What one field's type cannot say: fields that contradict each other, and what is not built yet.

In: a ``Spec`` whose every field is valid. Out: ``check`` gives problems, which stop every verb;
``notes`` gives remarks, which stop nothing. Both carry paths; positions are added when printing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from enova.base.problems import Problem, inert
from enova.base.secret import SecretRef
from enova.base.source import Path
from enova.base.units import format_duration, format_rate
from enova.spec.interpolate import SECRET_NAME
from enova.spec.model import Device, Goals, Lengths, Monitor, SecretReference, Service, Spec

RESERVED = ("gateway", "monitoring", "reconciler", "v1", "health", "metrics", "admin")
"""Service names that would collide with addresses or with paths of the gateway."""

QUANTIZATIONS = (
    "awq",
    "awq_marlin",
    "bitsandbytes",
    "compressed-tensors",
    "experts_int8",
    "fbgemm_fp8",
    "fp8",
    "gguf",
    "gptq",
    "gptq_marlin",
    "modelopt",
    "modelopt_fp4",
    "moe_wna16",
    "mxfp4",
    "quark",
    "torchao",
)
"""Methods sizing knows the weight of; others still go through ``engine.args``."""

OWN_ARGUMENTS = {
    "model": "model.id",
    "served-model-name": "model.served_name",
    "host": "",
    "port": "",
    "uds": "",
    "api-key": "gateway.api_keys",
    "revision": "model.revision",
}
"""Arguments that enova sets itself, with the field to use instead if there is one."""
OWN_VARIABLES = ("CUDA_VISIBLE_DEVICES",)

LOOKS_AT_DEFAULTS = frozenset(
    (
        "E201",
        "E202",
        "E203",
        "E204",
        "E206",
        "E209",
        "E210",
        "E212",
        "E213",
        "E216",
        "E220",
        "E231",
        "E232",
        "E233",
        "E234",
    )
)
"""Checks that may accuse a field which is only missing because its value was wrong."""
ACROSS_SECTIONS = frozenset(("E209", "E216"))
"""Checks that look at more than one section of a service."""

_TARGETS = ("process", "compose")
"""Those that run replicas, each on this machine."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_PERCENTILES = ("p50", "p90", "p95", "p99")
_MONITORS = ("prometheus", "alertmanager", "grafana", "tempo", "otel", "dcgm", "node")


def check(spec: Spec) -> list[Problem]:
    """Every contradiction in the spec, in the order of its sections."""
    problems: list[Problem] = []
    for name, service in spec.services.items():
        for rule in _SERVICE_RULES:
            problems.extend(rule(("services", name), service))
    for whole in _SPEC_RULES:
        problems.extend(whole(spec))
    return problems


def notes(spec: Spec) -> list[Problem]:
    """What is worth telling although it is no mistake."""
    found: list[Problem] = []
    for name, service in spec.services.items():
        found.extend(_service_notes(("services", name), service, spec.pool.target))
    if spec.pool.target == "process":
        for key in _MONITORS:
            if getattr(spec.monitoring, key).image is not None:
                message = f"monitoring.{key}.image has no effect: the process target runs programs"
                found.append(Problem("N301", message, ("monitoring", key, "image")))
    gateway = spec.gateway
    if gateway.host not in _LOOPBACK and not gateway.api_keys:
        message = f"anyone who reaches {inert(gateway.host)}:{gateway.port} may use the gateway"
        found.append(Problem("N302", message, ("gateway", "host"), "gateway.api_keys limits that"))
    return found


def _scale(at: Path, service: Service) -> Iterator[Problem]:
    scale = service.scale
    here = (*at, "scale")
    if scale.to_zero:
        if "min" in scale.model_fields_set and scale.min > 0:
            message = f"scale: to_zero and a min of {scale.min} contradict each other"
            yield Problem("E203", message, (*here, "min"), "write min: 0, or leave to_zero out")
        if scale.warm > 0:
            message = f"scale: to_zero and {scale.warm} warm contradict each other"
            yield Problem("E203", message, (*here, "warm"), "leave one of them out")
    if scale.max is None:
        return
    if scale.fewest > scale.max:
        message = f"scale: min {scale.min} is more than max {scale.max}"
        path = (*here, "min" if "min" in scale.model_fields_set else "max")
        yield Problem("E201", message, path)
    elif scale.fewest + scale.warm > scale.max:
        message = (
            f"scale: min {scale.fewest} and warm {scale.warm} do not fit under max {scale.max}"
        )
        yield Problem("E202", message, (*here, "warm"))


def _traffic(at: Path, service: Service) -> Iterator[Problem]:
    traffic = service.traffic
    here = (*at, "traffic")
    if traffic.mean is not None and traffic.mean > traffic.peak:
        message = (
            f"traffic: the mean {format_rate(traffic.mean)} is more than "
            f"the peak {format_rate(traffic.peak)}"
        )
        yield Problem("E204", message, (*here, "mean"))
    for key in ("input_tokens", "output_tokens"):
        lengths: Lengths = getattr(traffic, key)
        if lengths.p50 is not None and lengths.p95 is not None and lengths.p50 > lengths.p95:
            message = f"{key}: the p50 {lengths.p50:g} is more than the p95 {lengths.p95:g}"
            yield Problem("E205", message, (*here, key, "p50"))
        if lengths.mean is None and lengths.p50 is None and lengths.p95 is None:
            message = f"{key}: at least one of mean, p50, p95 is needed"
            yield Problem("E206", message, (*here, key), "for example 512")
    limit = service.model.max_model_len
    longest = [_longest(traffic.input_tokens), _longest(traffic.output_tokens)]
    if limit is not None and sum(longest) > limit:
        message = (
            f"model.max_model_len {limit} is less than what traffic asks for: "
            f"{longest[0]:g} tokens in and {longest[1]:g} out"
        )
        yield Problem(
            "E209", message, (*at, "model", "max_model_len"), f"at least {sum(longest):g}"
        )


def _longest(lengths: Lengths) -> float:
    """The longest length that is stated: the p95, else the mean, else the median."""
    return lengths.p95 or lengths.mean or lengths.p50 or 0.0


def _goals(at: Path, service: Service) -> Iterator[Problem]:
    goals: Goals = service.goals
    if goals.attainment is not None and not any(getattr(goals, key) for key in _LATENCIES):
        message = "goals.attainment: a share of requests within the latency goals, of which none is"
        path = (*at, "goals", "attainment")
        yield Problem("E231", f"{message} stated", path, "state goals.ttft, or leave it out")
    for key in _LATENCIES:
        limits: dict[str, float] = getattr(goals, key) or {}
        stated = [percentile for percentile in _PERCENTILES if percentile in limits]
        for low, high in itertools.pairwise(stated):
            if limits[low] > limits[high]:
                message = (
                    f"goals.{key}: {low} at {format_duration(limits[low])} is looser than "
                    f"{high} at {format_duration(limits[high])}"
                )
                yield Problem("E207", message, (*at, "goals", key, high))


def _rollout(at: Path, service: Service) -> Iterator[Problem]:
    if service.rollout.surge == 0 and service.rollout.max_unavailable == 0:
        message = "rollout: with surge 0 and max_unavailable 0 nothing could ever change"
        yield Problem("E210", message, (*at, "rollout"), "set one of them to 1", at_key=True)


def _engine(at: Path, service: Service) -> Iterator[Problem]:
    here = (*at, "engine")
    seen: dict[str, str] = {}
    for argument in service.engine.args:
        path = (*here, "args", argument)
        plain = argument.lstrip("-").replace("_", "-")
        if argument.startswith("-") or not plain or not plain.replace("-", "").isalnum():
            message = f'engine.args: "{inert(argument)[:60]}" is not the name of an argument'
            hint = f"write {inert(plain)[:60]}" if plain.replace("-", "").isalnum() else ""
            yield Problem("E221", message, path, hint, at_key=True)
        elif plain in OWN_ARGUMENTS:
            instead = OWN_ARGUMENTS[plain]
            hint = f"use {instead}" if instead else "leave it out"
            message = f"engine.args: {inert(argument)} is set by enova itself"
            yield Problem("E222", message, path, hint, at_key=True)
        elif plain in seen:
            message = f"engine.args: {inert(argument)} and {inert(seen[plain])} are one argument"
            yield Problem("E223", message, path, at_key=True)
        elif SECRET_NAME.search(plain.replace("-", "_")):
            message = f"engine.args: {inert(argument)} would show a secret in the process list"
            yield Problem("E214", message, path, "put it into engine.env by reference", at_key=True)
        seen[plain] = argument
    for variable, value in service.engine.env.items():
        path = (*here, "env", variable)
        if (
            not variable.replace("_", "a").isalnum()
            or not variable.isascii()
            or variable[0].isdigit()
        ):
            message = f'engine.env: "{inert(variable)[:60]}" is not the name of a variable'
            yield Problem("E221", message, path, at_key=True)
        elif variable in OWN_VARIABLES:
            message = f"engine.env: {variable} is set by enova itself"
            yield Problem("E222", message, path, "pool.hosts says which GPUs exist", at_key=True)
        if isinstance(value, SecretReference):
            yield from _reference(path, value)
        elif value and SECRET_NAME.search(variable):
            # The value is not shown: it is what must not be printed.
            message = f"engine.env: {variable} looks like a secret written into the file"
            yield Problem("E214", message, path, f"write {{env: {variable}}}", at_key=True)


def _model(at: Path, service: Service) -> Iterator[Problem]:
    method = service.model.quantization
    if method is not None and method not in QUANTIZATIONS:
        from enova.spec.suggest import nearest

        guess = nearest(method, QUANTIZATIONS)
        hint = f'Did you mean "{guess}"?' if guess else "others go to engine.args: quantization"
        message = f'model.quantization: "{inert(method)[:60]}" is not known'
        yield Problem("E219", message, (*at, "model", "quantization"), hint)


def _reference(path: Path, reference: SecretReference) -> Iterator[Problem]:
    ways = [way for way in ("env", "file", "command") if getattr(reference, way) is not None]
    if len(ways) != 1:
        said = "none is" if not ways else f"{' and '.join(ways)} are"
        message = f"a secret is read one way: env, file or command; {said} given"
        yield Problem("E213", message, path, "for example {env: HF_TOKEN}")


def _names(spec: Spec) -> Iterator[Problem]:
    for name in spec.services:
        if name in RESERVED:
            message = f'a service cannot be called "{name}": the stack uses that word'
            yield Problem("E218", message, ("services", name), at_key=True)
    served: dict[str, str] = {}
    for name, service in spec.services.items():
        word = service.model.served_name or name
        if word in served:
            both = f"services {served[word]} and {name} would both answer to model"
            message = f'{both} "{inert(word)[:60]}"'
            set_here = service.model.served_name is not None
            path: Path = (
                ("services", name, "model", "served_name") if set_here else ("services", name)
            )
            yield Problem("E216", message, path, at_key=not set_here)
        served.setdefault(word, name)


def _pool(spec: Spec) -> Iterator[Problem]:
    pool = spec.pool
    if pool.target not in _TARGETS:
        message = f"pool.target: {pool.target} is not built yet"
        yield Problem("E217", message, ("pool", "target"), "use process")
    seen: set[str] = set()
    for index, host in enumerate(pool.hosts):
        here: Path = ("pool", "hosts", index)
        if host.name in seen:
            message = f'pool.hosts: "{host.name}" is there twice'
            yield Problem("E211", message, (*here, "name"))
        seen.add(host.name)
        if pool.target in _TARGETS and host.address not in (None, *_LOOPBACK):
            message = f"pool.hosts: the {pool.target} target runs on this machine only"
            yield Problem("E224", message, (*here, "address"), "leave address out")
        if host.devices != "auto":
            yield from _devices(here, host.devices)


def _reconciler(spec: Spec) -> Iterator[Problem]:
    pool = spec.pool
    if pool.reconciler != "container":
        return
    if pool.target != "compose":
        message = f"pool.reconciler: target {pool.target} runs no containers"
        hint = "use off, and run enova reconcile or the unit that enova render writes"
        yield Problem("E233", message, ("pool", "reconciler"), hint)
        return
    for path, reference in _secrets(spec):
        read = SecretRef(reference.env, reference.file, tuple(reference.command or ()))
        why = read.why_not_elsewhere()
        if why:
            message = f"the reconciler's container cannot read this secret: it {why}"
            hint = "use env, or a file by its whole path; or set pool.reconciler to off"
            yield Problem("E234", message, path, hint)


def _secrets(spec: Spec) -> Iterator[tuple[Path, SecretReference]]:
    """Every secret that the stack is given, with its path."""
    for name, service in spec.services.items():
        for variable, value in service.engine.env.items():
            if isinstance(value, SecretReference):
                yield ("services", name, "engine", "env", variable), value
    for index, key in enumerate(spec.gateway.api_keys):
        yield ("gateway", "api_keys", index, "secret"), key.secret
    alertmanager, grafana = spec.monitoring.alertmanager, spec.monitoring.grafana
    if alertmanager.webhook is not None and alertmanager.enabled != "off":
        yield ("monitoring", "alertmanager", "webhook"), alertmanager.webhook
    if grafana.password is not None and grafana.enabled != "off":
        yield ("monitoring", "grafana", "password"), grafana.password


def _devices(host: Path, devices: Iterable[Device]) -> Iterator[Problem]:
    gpus: set[str] = set()
    for number, device in enumerate(devices):
        path = (*host, "devices", number)
        if (device.gpu is None) == (device.cpu is None):
            said = "neither is" if device.gpu is None else "both are"
            message = f"a device is either gpu or cpu; {said} given"
            yield Problem("E212", message, path, "for example {gpu: h100-sxm-80gb, count: 2}")
        elif device.cpu is not None and device.count != 1:
            message = "a host has one cpu: count belongs to gpu"
            yield Problem("E212", message, (*path, "count"), "say how many cores with cpu.cores")
        key = device.gpu or "cpu"
        if key in gpus:
            message = f'devices: "{inert(key)[:60]}" is there twice'
            yield Problem("E225", message, path, "add the numbers up in one entry")
        gpus.add(key)


def _gateway(spec: Spec) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, key in enumerate(spec.gateway.api_keys):
        here: Path = ("gateway", "api_keys", index)
        if key.name in seen:
            message = f'gateway.api_keys: "{key.name}" is there twice'
            yield Problem("E215", message, (*here, "name"))
        seen.add(key.name)
        yield from _reference((*here, "secret"), key.secret)
    tls = spec.gateway.tls
    if tls is not None and tls.certificate == tls.key:
        message = "gateway.tls: certificate and key are the same file"
        yield Problem("E226", message, ("gateway", "tls", "key"))


def _monitoring(spec: Spec) -> Iterator[Problem]:
    monitoring = spec.monitoring
    own = monitoring.prometheus.port
    if own is not None and monitoring.port is not None and own != monitoring.port:
        message = f"monitoring.port {monitoring.port} and monitoring.prometheus.port {own}"
        yield Problem("E232", f"{message} are the same port", ("monitoring", "port"), "delete one")
    taken = {spec.gateway.port: "the gateway"}
    for key in _MONITORS:
        part: Monitor = getattr(monitoring, key)
        path: Path = ("monitoring", key, "port")
        port = part.port
        if key == "prometheus" and port is None:
            port, path = monitoring.port, ("monitoring", "port")
        if port is None or part.enabled == "off":
            continue
        if port in taken:
            message = f"{'.'.join(map(str, path))}: {taken[port]} listens on {port} already"
            yield Problem("E220", message, path)
        taken.setdefault(port, f"monitoring.{key}")
    if monitoring.alertmanager.webhook is not None:
        yield from _reference(
            ("monitoring", "alertmanager", "webhook"), monitoring.alertmanager.webhook
        )
    if monitoring.grafana.password is not None:
        yield from _reference(("monitoring", "grafana", "password"), monitoring.grafana.password)


_SERVICE_RULES: tuple[Callable[[Path, Service], Iterator[Problem]], ...] = (
    _model,
    _engine,
    _traffic,
    _goals,
    _scale,
    _rollout,
)
_SPEC_RULES: tuple[Callable[[Spec], Iterator[Problem]], ...] = (
    _names,
    _gateway,
    _pool,
    _reconciler,
    _monitoring,
)


def _service_notes(at: Path, service: Service, target: str) -> Iterator[Problem]:
    engine, goals = service.engine, service.goals
    if engine.image is not None and target == "process":
        message = "engine.image has no effect: the process target runs programs"
        yield Problem("N301", message, (*at, "engine", "image"))
    if engine.executable is not None and target != "process":
        message = f"engine.executable has no effect: the {target} target runs images"
        yield Problem("N301", message, (*at, "engine", "executable"))
    if engine.name == "emulator":
        for key in ("image", "executable", "version"):
            if getattr(engine, key) is not None and not (key == "image" and target == "process"):
                message = f"engine.{key} has no effect: the emulator is part of enova"
                yield Problem("N301", message, (*at, "engine", key))
    if not any(getattr(goals, key) for key in _LATENCIES):
        message = f"{at[-1]} states no latency goal: the cheapest choice that carries the peak wins"
        yield Problem("N303", message, at, "goals.ttft and goals.tpot", at_key=True)
    for percentile, limit in (goals.e2e or {}).items():
        first = (goals.ttft or {}).get(percentile)
        if first is not None and first > limit:
            message = f"goals.ttft: {percentile} is looser than e2e, which includes it"
            yield Problem("N304", message, (*at, "goals", "ttft"))
