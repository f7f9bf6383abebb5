"""Stacks as compose files, in a few words: some by hand, and any number at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hypothesis import strategies as st

from enova.base.secret import SecretRef
from enova.capacity.catalog import images
from enova.effects import gateway as envoy
from enova.stack import monitoring
from enova.stack.observed import Placement
from enova.stack.render import compose, compose_monitors, compose_reconciler
from enova.stack.render.compose import Document, Project
from enova.stack.resources import (
    GatewayResource,
    KeyReference,
    MonitorResource,
    Needs,
    ReconcilerResource,
    ReplicaTemplate,
    Route,
    Scalar,
)

GIB = 2**30
PROJECT = Project("shop", "prod", "10.213.7.0/24", "1000:1000", cores=16)
TOKEN = (("HF_TOKEN", SecretRef(env="HF_TOKEN")),)
BOOTSTRAP = Path("/enova/gateway/bootstrap.json")


def template(
    service: str = "chat",
    *,
    engine: str = "vllm",
    model: str = "meta-llama/Llama-3.1-8B-Instruct",
    gpus: int = 1,
    cores: int = 0,
    args: Mapping[str, Scalar] | None = None,
    env: Mapping[str, str] | None = None,
    secrets: tuple[tuple[str, SecretRef], ...] = (),
    image: str | None = None,
    drain_s: float = 120.0,
) -> ReplicaTemplate:
    return ReplicaTemplate(
        service=service,
        engine=engine,
        engine_version="1" if engine == "emulator" else "0.32.0",
        executable="",
        model=model,
        served_name=service,
        args=tuple(sorted((args or {"max-num-seqs": 64}).items())),
        env=tuple(sorted((env or {}).items())),
        secret_env=secrets,
        needs=Needs("h100-sxm-80gb" if gpus else None, gpus, cores, 6 * GIB if cores else 0),
        image=image,
        start_timeout_s=390.0,
        drain_timeout_s=drain_s,
    )


def replica(
    of: ReplicaTemplate,
    slot: int,
    *,
    gpus: tuple[int, ...] = (),
    cores: tuple[int, ...] = (),
    project: Project = PROJECT,
    reserve: bool = True,
) -> tuple[str, Document]:
    """A replica by its instance id."""
    instance = f"{of.service}-replica-{slot}-3fa9c1"
    memory = of.needs.memory_bytes if cores else 0
    prefix = project.subnet.rpartition(".")[0]
    return instance, compose.replica(
        project,
        instance=instance,
        address=f"{of.service}/replica/{slot}",
        template=of,
        placement=Placement("local", gpus=gpus, cores=cores, memory_bytes=memory),
        ip=f"{prefix}.{100 + 8 * len(of.service) % 100 + slot}",
        image=compose.engine_image(of),
        apply="3fa9c1",
        cache=compose.cache_of(of),
        reserve=reserve,
    )


def gateway(
    services: Iterable[str],
    *,
    host: str = "127.0.0.1",
    port: int = 9199,
    keys: tuple[KeyReference, ...] = (),
    pems: tuple[str, str] | None = None,
    project: Project = PROJECT,
) -> tuple[str, Document]:
    """The gateway by its component id."""
    resource = GatewayResource(
        host=host,
        port=port,
        routing="least-request",
        routes=tuple(Route(name, name) for name in services),
        keys=keys,
        tls_certificate=pems[0] if pems else None,
        tls_key=pems[1] if pems else None,
    )
    return "gateway-77aa10", compose.gateway(
        project,
        component="gateway-77aa10",
        resource=resource,
        ip=f"{project.subnet.rpartition('.')[0]}.10",
        image=images.program_image("envoy").reference,
        apply="77aa10",
        command=envoy.command_line(Path("envoy"), BOOTSTRAP),
    )


def monitor(
    name: str,
    *,
    port: int | None = None,
    secrets: tuple[tuple[str, SecretRef], ...] = (),
    project: Project = PROJECT,
) -> tuple[str, Document]:
    """A monitor by its component id."""
    settings = (("retention", 172800.0), ("scrape_interval", 5.0))
    stored = name in (monitoring.PROMETHEUS, monitoring.TEMPO)
    resource = MonitorResource(
        name, port=port, secrets=secrets, settings=settings if stored else ()
    )
    component = f"monitoring-{name}-ab12cd"
    place = 20 + sorted(compose_monitors.WATCHERS).index(name)
    return component, compose_monitors.monitor(
        project,
        component=component,
        resource=resource,
        ip=f"{project.subnet.rpartition('.')[0]}.{place}",
        image=images.program_image(name).reference,
        apply="ab12cd",
    )


def reconciler(project: Project = PROJECT) -> tuple[str, Document]:
    """The reconciler by its component id."""
    return "reconciler-5d5d5d", compose_reconciler.reconciler(
        project,
        component="reconciler-5d5d5d",
        resource=ReconcilerResource(
            images.program_image("enova").reference,
            variables=("HF_TOKEN",),
            files=("/run/secrets/ops",),
            folders=("/etc/enova/tls",),
        ),
        ip=f"{project.subnet.rpartition('.')[0]}.11",
        apply="5d5d5d",
        root="/home/ops/.local/state/enova",
        folder="/home/ops/.local/state/enova/shop.prod",
        socket_group=998,
        gpus=True,
    )


def stack(*services: tuple[str, Document], project: Project = PROJECT) -> Document:
    """The file of some services."""
    return compose.document(project, dict(services))


def cpu_pool() -> Document:
    """Two services on a processor, one of a local folder, one emulated."""
    chat = template(gpus=0, cores=4, model="/srv/models/tiny", args={"max-model-len": 1024})
    drill = template("drill", engine="emulator", gpus=0, cores=1, model="org/model")
    return stack(
        replica(chat, 0, cores=(0, 1, 2, 3)),
        replica(chat, 1, cores=(4, 5, 6, 7)),
        replica(drill, 0, cores=(8,)),
        gateway(["chat", "drill"]),
        monitor(monitoring.PROMETHEUS, port=32826),
    )


def gpu_pool() -> Document:
    """Two replicas of two GPUs each."""
    of = template(gpus=2, model="/srv/models/llama", args={"tensor-parallel-size": 2})
    return stack(replica(of, 0, gpus=(0, 1)), replica(of, 1, gpus=(2, 3)), gateway(["chat"]))


def hub_model() -> Document:
    """A model of a hub, with a token by reference and an own image."""
    of = template(
        secrets=TOKEN, env={"NOTE": "costs $5, not ${FIVE}"}, image="registry.local/vllm:v0.32.0-1"
    )
    return stack(replica(of, 0, gpus=(3,)), gateway(["chat"]))


def locked_door() -> Document:
    """TLS, API keys, open to the network."""
    of = template(gpus=0, cores=2, model="/srv/models/tiny")
    keys = (KeyReference("ops", SecretRef(file="/run/secrets/ops")),)
    pems = ("/etc/enova/tls/server.crt", "/etc/enova/tls/server.key")
    door = gateway(["chat"], host="0.0.0.0", port=443, keys=keys, pems=pems)
    return stack(replica(of, 0, cores=(0, 1)), door)


def everything() -> Document:
    """All programs there are."""
    of = template(secrets=TOKEN)
    ports = {
        monitoring.PROMETHEUS: 32826,
        monitoring.GRAFANA: 32827,
        monitoring.OTEL_COLLECTOR: 32893,
    }
    secrets = {
        monitoring.GRAFANA: ((monitoring.PASSWORD, SecretRef(env="GRAFANA_PASSWORD")),),
        monitoring.ALERTMANAGER: ((monitoring.WEBHOOK, SecretRef(env="ALERTS_URL")),),
    }
    return stack(
        replica(of, 0, gpus=(0,)),
        gateway(["chat"]),
        reconciler(),
        *(
            monitor(name, port=ports.get(name), secrets=secrets.get(name, ()))
            for name in sorted(compose_monitors.WATCHERS)
        ),
    )


WORLDS = {
    "cpu-pool": cpu_pool,
    "gpu-pool": gpu_pool,
    "hub-model": hub_model,
    "locked-door": locked_door,
    "everything": everything,
}

PUBLIC = {"locked-door": frozenset({"gateway-77aa10"})}
"""What a spec of that world opens to the network."""

_TEXT = st.text(st.sampled_from("abz09 -_./:{}$\"'\\%#é"), max_size=12)
_NAMES = st.sampled_from(["chat", "embed", "a-long-name"])
_MODELS = st.sampled_from(["org/model", "/srv/models/a b", "/srv/$HOME/model"])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any stack the renderer can be asked for."""
    env = draw(st.sampled_from(["", "prod"]))
    block = draw(st.integers(0, 255))
    uid = draw(st.sampled_from(["1000:1000", "501:20", "65534:65534"]))
    project = Project("shop", env, f"10.{block}.{255 - block}.0/24", uid, cores=16)
    names = draw(st.lists(_NAMES, unique=True, min_size=1, max_size=3))
    services: dict[str, Document] = {}
    device = 0
    for name in names:
        emulated = draw(st.booleans())
        gpus = draw(st.integers(0, 4))
        of = template(
            name,
            engine="emulator" if emulated else "vllm",
            model=draw(_MODELS),
            gpus=gpus,
            cores=0 if gpus else 2,
            args={"max-num-seqs": draw(st.integers(1, 512)), "x": draw(_TEXT) or "y"},
            env=draw(st.dictionaries(st.sampled_from(["A", "B_C"]), _TEXT)),
            secrets=draw(st.sampled_from([(), TOKEN])),
            drain_s=draw(st.floats(0, 600)),
        )
        for slot in range(draw(st.integers(0, 3))):
            held = tuple(range(device, device + (gpus or 2)))
            device += gpus or 2
            where = {"gpus": held} if gpus else {"cores": held}
            reserve = draw(st.booleans())
            name_of, service = replica(of, slot, project=project, reserve=reserve, **where)
            services[name_of] = service
    pems = draw(st.sampled_from([None, ("/etc/tls/a.crt", "/srv/tls/a.key")]))
    port = draw(st.integers(1, 65535))
    services.update([gateway(names, port=port, pems=pems, project=project)])
    for watcher in draw(st.sets(st.sampled_from(sorted(compose_monitors.WATCHERS)))):
        shown = draw(st.sampled_from([None, 32826]))
        services.update([monitor(watcher, port=shown, project=project)])
    if draw(st.booleans()):
        services.update([reconciler(project)])
    return compose.document(project, services)
