"""A stack as one ``compose.yaml``: a service for each instance, the gateway, the monitors.

In: templates, placements and addresses as a plan and its driver chose them. Out: plain data, and
its text. The driver writes it, and people read it and may run it: ``docker compose up -d``. No
secret is in it: Compose takes them from its own environment (``secret_variable``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from posixpath import dirname

from enova.base.address import GATEWAY
from enova.capacity.catalog import engines, images
from enova.stack.observed import Placement
from enova.stack.render import engine
from enova.stack.render.compose_parts import (
    GIB,
    INSIDE,
    MIB,
    OUTSIDE,
    Document,
    Gpus,
    Health,
    Limits,
    Mark,
    Mount,
    Port,
    Project,
    program,
    reference,
    secret_variable,
)
from enova.stack.render.compose_text import dump
from enova.stack.render.envoy_secrets import CERTIFICATE_FILE, KEYS_FILE
from enova.stack.render.gateway_settings import GatewayPlaces
from enova.stack.resources import GatewayResource, ReplicaTemplate
from enova.stack.schedule import STOP_MARGIN_S

__all__ = [
    "ENGINE_PORT",
    "METRICS_PORT",
    "MODEL_CACHE",
    "Document",
    "Project",
    "address_of",
    "cache_of",
    "document",
    "dump",
    "engine_image",
    "gateway",
    "gateway_places",
    "ip_of",
    "is_folder",
    "program",
    "replica",
    "secret_variable",
]

ENGINE_PORT = 8000
METRICS_PORT = 9901
MODEL_CACHE = "models"

CACHE = "/var/tmp"  # noqa: S108
"""Where the model cache is mounted: a new volume takes over the mode of the image's folder, and
this one is writable for any user in every image."""

_HOME = "/tmp"  # noqa: S108
_CONFIG, _RUN, _MEMBERS, _LOG = "/enova/gateway", "/enova/run", "/enova/members", "/enova/log"

_PATH_ARGS = (
    "chat-template",
    "generation-config",
    "hf-config-path",
    "reasoning-parser-plugin",
    "tokenizer",
    "tool-parser-plugin",
)
"""Engine arguments that may name a file of the host."""

_GATEWAY_HEAP_BYTES = 2048 * MIB
"""What Envoy is told to keep to (``GatewaySettings.max_heap_bytes``)."""


def replica(
    project: Project,
    *,
    instance: str,
    address: str,
    template: ReplicaTemplate,
    placement: Placement,
    ip: str,
    image: str,
    apply: str,
    cache: str | None = None,
    reserve: bool = True,
) -> Document:
    """The service of one engine.

    ``cache`` is the volume or folder that keeps downloaded models and compiled code between
    starts. ``reserve``: take the devices of the placement from the host; an emulator never does,
    it rehearses on devices that may not be there. Raises ValueError as ``engine.command`` does.
    """
    facts = engines.facts(template.engine, template.engine_version)
    words = engine.command(template, program=(), host="0.0.0.0", port=ENGINE_PORT)  # noqa: S104
    emulated = template.engine == "emulator"
    reserve = reserve and not emulated
    on_cpu = not placement.gpus
    return program(
        project,
        mark=Mark("replica", instance, address, template.digest, template.fields(), apply),
        image=image,
        entrypoint=facts.command,
        command=words,
        ip=ip,
        limits=_engine_limits(template, placement, emulated=emulated, reserve=reserve),
        health=Health(_asks_http(facts.health_path), start_s=template.start_timeout_s),
        environment=_engine_environment(
            template, placement, cached=cache is not None, address=address, instance=instance
        ),
        secrets={
            name: reference(template.service, name, secret) for name, secret in template.secret_env
        },
        mounts=[
            *(Mount(path, path) for path in _host_paths(template)),
            *([Mount(cache, CACHE, read_only=False)] if cache is not None else ()),
        ],
        # A hub's model is downloaded; the emulator only goes by its name.
        outside=not is_folder(template.model) and not emulated,
        gpus=Gpus(tuple(map(str, placement.gpus))) if placement.gpus and reserve else None,
        # Workers hand tensors to each other through shared memory, NCCL too.
        shm_bytes=0 if emulated else max(1, len(placement.gpus)) * GIB,
        tmp_bytes=64 * MIB if emulated else (1 if on_cpu else 4) * GIB,
        # Engines compile code and load it from there.
        tmp_exec=not emulated,
        stop_s=template.drain_timeout_s + STOP_MARGIN_S,
    )


def gateway(
    project: Project,
    *,
    component: str,
    resource: GatewayResource,
    ip: str,
    image: str,
    apply: str,
    command: Sequence[str],
    config: str = "./gateway",
    members: str = "./members",
    log: str = "./log",
) -> Document:
    """The service of one Envoy, whose own files are in ``config``.

    ``command`` is Envoy's, the program first, over the paths of ``gateway_places``. The folder
    ``config``/run must exist: the admin socket is made in it. Certificate and key are mounted by
    their folders, so that a renewed pair, which is renamed into place, is seen.
    """
    pems = [path for path in (resource.tls_certificate, resource.tls_key) if path is not None]
    return program(
        project,
        mark=Mark("gateway", component, GATEWAY, resource.digest, resource.fields(), apply),
        image=image,
        # Not the image's own entrypoint: it begins as root to become somebody else.
        entrypoint=command[:1],
        command=command[1:],
        ip=ip,
        limits=Limits(_GATEWAY_HEAP_BYTES + 512 * MIB, pids=256, cpus=4.0),
        # Envoy's image has neither curl nor Python. The port is open once its files are loaded.
        health=Health(("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{resource.port}")),
        mounts=[
            Mount(config, _CONFIG),
            Mount(f"{config}/run", _RUN, read_only=False),
            Mount(members, _MEMBERS),
            Mount(log, _LOG, read_only=False),
            *(Mount(folder, folder) for folder in sorted({dirname(path) for path in pems})),
        ],
        ports=[Port(resource.port, resource.port, resource.host)],
    )


def gateway_places(ip: str) -> GatewayPlaces:
    """Where everything is for the Envoy whose address inside is ``ip``."""
    return GatewayPlaces(
        config_dir=_CONFIG,
        members_dir=_MEMBERS,
        access_log=f"{_LOG}/access.log",
        keys=f"{_CONFIG}/{KEYS_FILE}",
        certificate=f"{_CONFIG}/{CERTIFICATE_FILE}",
        metrics_port=METRICS_PORT,
        metrics_host=ip,
        # Who may connect is said where the port is published.
        listen_host="0.0.0.0",  # noqa: S104
        admin_path=f"{_RUN}/admin.sock",
    )


def document(project: Project, services: Mapping[str, Document]) -> Document:
    """The whole file: services by their names, and the networks and volumes they use."""
    ours = {"enova.stack": project.stack, "enova.env": project.env}
    networks: Document = {
        INSIDE: {
            "driver": "bridge",
            "internal": True,
            "ipam": {"config": [{"subnet": project.subnet}]},
            "labels": dict(ours),
        }
    }
    if any(OUTSIDE in _keys(service, "networks") for service in services.values()):
        networks[OUTSIDE] = {"driver": "bridge", "labels": dict(ours)}
    volumes = sorted({name for service in services.values() for name in _volumes(service)})
    made: Document = {
        "name": project.name,
        "services": {name: services[name] for name in sorted(services)},
        "networks": networks,
        "volumes": {name: {"labels": dict(ours)} for name in volumes},
    }
    return {key: value for key, value in made.items() if value or key == "services"}


def ip_of(service: Document) -> str:
    """The address inside of a service of ours."""
    networks = service["networks"]
    assert isinstance(networks, dict)
    return str(networks[INSIDE]["ipv4_address"])


def address_of(service: Document) -> str:
    """The address, as in plans, of a service of ours."""
    labels = service["labels"]
    assert isinstance(labels, dict)
    return str(labels["enova.address"])


def engine_image(template: ReplicaTemplate) -> str:
    """The image the spec names for an engine, else the catalog's for its version."""
    if template.image is not None:
        return template.image
    return images.engine_image(template.engine, template.engine_version).reference


def cache_of(template: ReplicaTemplate) -> str | None:
    """The volume that keeps downloads and compiled code of an engine; the emulator has neither."""
    return None if template.engine == "emulator" else MODEL_CACHE


def is_folder(model: str) -> bool:
    """Whether a model is a folder of the host, not a hub's."""
    return model.startswith(("/", "./", "../"))


def _engine_environment(
    template: ReplicaTemplate,
    placement: Placement,
    *,
    cached: bool,
    address: str,
    instance: str,
) -> dict[str, str]:
    kept = CACHE if cached else _HOME
    base = {
        "HOME": _HOME,
        # The user has no entry in the image's passwd, and libraries ask for its name.
        "USER": "enova",
        "LOGNAME": "enova",
        "XDG_CACHE_HOME": f"{kept}/cache",
        "TRITON_CACHE_DIR": f"{kept}/cache/triton",
        "HF_HOME": f"{kept}/huggingface",
    }
    if template.engine == "emulator":
        base = {"HOME": _HOME}
    elif is_folder(template.model):
        base["HF_HUB_OFFLINE"] = "1"
    values = engine.environment(template, placement, address=address, instance=instance)
    if placement.gpus:
        # Only the reserved ones are in the container, where their numbers begin at 0.
        del values["CUDA_VISIBLE_DEVICES"]
    return base | values


def _engine_limits(
    template: ReplicaTemplate, placement: Placement, *, emulated: bool, reserve: bool
) -> Limits:
    """Memory of an engine on GPUs: far above what it needs there, so that only a leak meets it.

    Each GPU has a worker with its copy of the libraries and pinned buffers, some 8 GiB at most,
    and what the arguments have it keep in host memory.
    """
    if emulated:
        return Limits(GIB, pids=256, cpus=1.0)
    cores = placement.cores if reserve else ()
    if not placement.gpus:
        memory = placement.memory_bytes or template.needs.memory_bytes
        return Limits(memory, pids=4096, cores=cores, cpus=float(len(placement.cores)) or None)
    args = dict(template.args)
    kept = sum(_number(args.get(flag)) for flag in ("swap-space", "cpu-offload-gb"))
    memory = int((16 + (16 + kept) * len(placement.gpus)) * GIB)
    # What feeds a GPU may take all processor time there is.
    return Limits(memory, pids=8192, cpus=None if reserve else float(len(placement.gpus)))


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float, str)) else 0.0
    except ValueError:
        return 0.0  # the engine refuses it too, and says why


def _host_paths(template: ReplicaTemplate) -> list[str]:
    """The model's folder and files that arguments name, at the same paths in the container."""
    named = [template.model] if is_folder(template.model) else []
    named += [
        value
        for flag, value in template.args
        if flag in _PATH_ARGS and isinstance(value, str) and value.startswith("/")
    ]
    return sorted(set(named))


def _asks_http(path: str) -> tuple[str, ...]:
    """Python is in every engine's image; curl is not."""
    url = f"http://127.0.0.1:{ENGINE_PORT}{path}"
    ask = f"import urllib.request as r; r.urlopen('{url}', timeout=4)"
    return ("python3", "-I", "-S", "-c", ask)


def _keys(service: Document, part: str) -> set[str]:
    found = service.get(part)
    return set(found) if isinstance(found, dict) else set()


def _volumes(service: Document) -> set[str]:
    found = service.get("volumes")
    mounts = found if isinstance(found, list) else []
    return {str(mount["source"]) for mount in mounts if mount["type"] == "volume"}
