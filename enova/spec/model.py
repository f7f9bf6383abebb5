"""The spec's grammar: one pydantic model a section. Reference, schema and validation follow it.

In: plain data from ``spec.yaml``. Out: an immutable ``Spec`` in seconds, bytes, tokens and USD/h.
Descriptions and examples here are what ``enova explain services.chat.goals`` and the published
JSON Schema show, so they are written for the person who fills the file in.
"""

# Annotations are not postponed: pydantic would compile each of them again at every start.
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from enova.spec.quantity import (
    Duration,
    Fraction,
    PositiveBytes,
    PositiveDuration,
    PositivePrice,
    PositiveRate,
    Price,
    Rate,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""Lower-case letters, digits and dashes: it becomes part of URLs, labels and file names."""


class Section(BaseModel):
    """Base of every section: unknown keys are problems, values never change after loading.

    Strict, because a text that looks like a boolean or a number is a text. Validators are built
    once, for the whole spec, when the first one is read: defaults are therefore constructed
    without validation.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, strict=True, defer_build=True
    )


class _Shorthand:
    """A bare scalar may stand for a map with one key: ``model: org/name``."""

    def __init__(self, key: str) -> None:
        self.key = key

    def widen(self, value: object) -> object:
        """The map a scalar stands for; maps, lists and nothing stay as they are."""
        if value is None or isinstance(value, (dict, list, Section)):
            return value
        return {self.key: value}

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        section = handler(core_schema)
        inside = handler.resolve_ref_schema(section)
        main = inside.get("properties", {}).get(self.key) or inside["additionalProperties"]
        scalar = {key: main[key] for key in main if key not in ("default", "title", "description")}
        if "anyOf" in scalar:  # an optional key: written alone it is not left out
            scalar["anyOf"] = [kind for kind in scalar["anyOf"] if kind != {"type": "null"}]
        return {"anyOf": [scalar, section]}


_ID, _NAME, _MEAN = _Shorthand("id"), _Shorthand("name"), _Shorthand("mean")


class SecretReference(Section):
    """Where to read a secret when it is needed. The value never enters a plan, record or file."""

    env: str | None = Field(
        None, min_length=1, description="Name of an environment variable.", examples=["HF_TOKEN"]
    )
    file: str | None = Field(
        None,
        min_length=1,
        description="Path of a file holding only the secret.",
        examples=["/run/secrets/hf_token"],
    )
    command: list[str] | None = Field(
        None,
        min_length=1,
        description="Command whose output is the secret, as a list of words.",
        examples=[["pass", "show", "hf"]],
    )


class Model(Section):
    """Which model to serve."""

    id: str = Field(
        description="Hub id, or the path of a local folder with a config.json "
        "(relative paths start at the spec's folder).",
        examples=["meta-llama/Llama-3.1-8B-Instruct", "./models/tiny"],
        min_length=1,
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    quantization: str | None = Field(
        None,
        description="Quantization method of the engine; left out, the checkpoint's own.",
        examples=["fp8"],
    )
    max_model_len: int | None = Field(
        None, gt=0, description="Longest prompt plus answer, in tokens.", examples=[8192]
    )
    served_name: str | None = Field(
        None,
        description="The `model` clients send; left out, the service's name.",
        examples=["llama-3.1-8b"],
    )


ArgumentValue = str | int | float | bool


class Engine(Section):
    """The inference server that runs the model."""

    name: Literal["vllm", "emulator"] = Field(
        "vllm", description="`vllm`, or `emulator` to rehearse without GPUs."
    )
    version: str | None = Field(
        None, description="Engine version; left out, the newest known.", examples=["0.32.0"]
    )
    image: str | None = Field(
        None, description="Container image; the process target does not use one."
    )
    executable: str | None = Field(
        None,
        description="Path of the engine's program on the process target; left out, it is "
        "looked up on PATH.",
    )
    args: dict[str, ArgumentValue] = Field(
        default_factory=dict,
        description="Extra engine arguments without the leading dashes; they win over the "
        "computed ones.",
        examples=[{"enforce-eager": True, "max-num-seqs": 64}],
    )
    env: dict[str, str | SecretReference] = Field(
        default_factory=dict,
        description="Environment of the engine; a secret is written as a reference.",
        examples=[{"HF_TOKEN": {"env": "HF_TOKEN"}}],
    )
    start_timeout: PositiveDuration | None = Field(
        None, description="Longest wait for the first answered token; left out, from model size."
    )


class Lengths(Section):
    """A distribution of token counts by one or more of its numbers."""

    mean: float | None = Field(None, gt=0, description="Mean, in tokens.", examples=[512])
    p50: float | None = Field(None, gt=0, description="Median, in tokens.")
    p95: float | None = Field(None, gt=0, description="95th percentile, in tokens.")


class Traffic(Section):
    """The expected load at the gateway."""

    peak: PositiveRate = Field(description="Highest sustained arrival rate.", examples=["20/s"])
    mean: Rate | None = Field(None, description="Mean arrival rate; left out, the peak.")
    input_tokens: Annotated[Lengths, BeforeValidator(_MEAN.widen), _MEAN] = Field(
        default_factory=lambda: Lengths.model_construct(mean=512.0),
        description="Tokens of a prompt.",
    )
    output_tokens: Annotated[Lengths, BeforeValidator(_MEAN.widen), _MEAN] = Field(
        default_factory=lambda: Lengths.model_construct(mean=128.0),
        description="Tokens of an answer.",
    )
    trace: str | None = Field(
        None,
        description="A recorded trace whose lengths replace the ones above: JSON lines with "
        "`prompt_tokens` and `output_tokens`.",
    )
    prefix_reuse: Fraction = Field(
        0.0, description="Share of prompt tokens found in the prefix cache.", examples=["30%"]
    )


Percentile = Literal["p50", "p90", "p95", "p99"]
_P95 = _Shorthand("p95")
AtPercentiles = Annotated[
    dict[Percentile, PositiveDuration], Field(min_length=1), BeforeValidator(_P95.widen), _P95
]


class Goals(Section):
    """Service-level objectives. A bare duration is meant at p95."""

    ttft: AtPercentiles | None = Field(
        None, description="Time to first token.", examples=["400ms", {"p95": "400ms"}]
    )
    tpot: AtPercentiles | None = Field(
        None, description="Time per output token: a request's mean after its first token."
    )
    itl: AtPercentiles | None = Field(None, description="Latency between two tokens of an answer.")
    e2e: AtPercentiles | None = Field(None, description="Whole request, arrival to last token.")
    attainment: Fraction | None = Field(
        None,
        description="Share of requests that must be within all latency goals at once, each metric "
        "by the limit of its highest percentile and ITL by a request's mean. Sizing and scaling "
        "keep it beside the percentiles; left out, only those count.",
        examples=["99%"],
    )
    success_rate: Fraction = Field(
        0.999,
        description="Share of requests answered without a 5xx. Measured at the gateway and set "
        "against this by `enova status`; sizing predicts no refusals, so nothing is chosen by it.",
        examples=["99.9%"],
    )


class Scale(Section):
    """Bounds and pace of scaling; the count between them belongs to the reconciler."""

    min: int = Field(1, ge=0, description="Fewest replicas.")
    max: int | None = Field(None, ge=1, description="Most replicas; left out, what the pool holds.")
    to_zero: bool = Field(
        False,
        description="Stop the last replica when no request came for `idle`; the next request is "
        "answered 503 with Retry-After while a replica starts.",
    )
    warm: int = Field(0, ge=0, description="Serving replicas kept above what traffic needs.")
    hold: Duration = Field(
        300.0, description="How long fewer replicas must suffice before one is removed."
    )
    idle: PositiveDuration = Field(
        900.0, description="Time without a request before scaling to zero."
    )

    @property
    def fewest(self) -> int:
        """Replicas that always run: none for a service that may scale to zero."""
        return 0 if self.to_zero else self.min


class Rollout(Section):
    """How a change replaces running replicas."""

    surge: int = Field(1, ge=0, description="Replicas started above the count during a change.")
    max_unavailable: int = Field(
        0, ge=0, description="Replicas that may be missing during a change."
    )
    drain_timeout: Duration = Field(
        120.0, description="Longest wait for open requests before a replica is stopped."
    )


class Service(Section):
    """One model behind one endpoint."""

    model: Annotated[Model, BeforeValidator(_ID.widen), _ID] = Field(
        description="Which model to serve.", examples=["meta-llama/Llama-3.1-8B-Instruct"]
    )
    engine: Annotated[Engine, BeforeValidator(_NAME.widen), _NAME] = Field(
        default_factory=lambda: Engine.model_construct(),
        description="The inference server that runs the model.",
    )
    traffic: Traffic = Field(
        description="The expected load at the gateway.", examples=[{"peak": "20/s"}]
    )
    goals: Goals = Field(
        default_factory=lambda: Goals.model_construct(), description="What must hold."
    )
    scale: Scale = Field(
        default_factory=lambda: Scale.model_construct(), description="Bounds of scaling."
    )
    rollout: Rollout = Field(
        default_factory=lambda: Rollout.model_construct(), description="How changes happen."
    )
    priority: int = Field(
        100, ge=0, le=1000, description="When the pool is short, higher is served first."
    )
    protect: bool = Field(
        False, description="Refuse to remove this service, also when its block is deleted."
    )


class ApiKey(Section):
    """One key clients may send as `Authorization: Bearer ...`."""

    name: Name = Field(description="Who uses it; shown in logs and metrics instead of the key.")
    secret: SecretReference = Field(description="Where the key itself is read.")
    rate: PositiveRate | None = Field(
        None, description="Requests allowed with this key.", examples=["5/s"]
    )


class GatewayLimits(Section):
    """What the gateway refuses."""

    max_body: PositiveBytes = Field(
        8 * 2**20, description="Largest request body.", examples=["8MiB"]
    )
    rate: PositiveRate | None = Field(None, description="Requests allowed over the whole gateway.")
    max_pending: int = Field(1024, gt=0, description="Requests waiting for a replica.")
    max_requests: int = Field(4096, gt=0, description="Requests open at a time.")
    idle_timeout: PositiveDuration = Field(
        600.0, description="A stream without a byte for this long is closed."
    )


class Tls(Section):
    """Certificate of the gateway; TLS 1.2 is the least accepted."""

    certificate: str = Field(description="Path of the PEM certificate chain.")
    key: str = Field(description="Path of the PEM private key.")


class Gateway(Section):
    """The one door of the stack: `/<service>/v1/...`, or `/v1/...` by the body's `model`."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9199, ge=1, le=65535, description="Port to listen on.")
    routing: Literal["least-request", "prefix"] = Field(
        "least-request",
        description="`least-request` picks the replica with the fewest open requests for its "
        "weight; `prefix` keeps equal prompt starts on one replica, with bounded load.",
    )
    api_keys: list[ApiKey] = Field(
        # Not `list` itself: finding out that it takes no data costs pydantic a millisecond or two.
        default_factory=lambda: [],
        description="Keys; none means anyone who can connect.",
    )
    limits: GatewayLimits = Field(
        default_factory=lambda: GatewayLimits.model_construct(), description="What it refuses."
    )
    tls: Tls | None = Field(None, description="Certificate; left out, plain HTTP.")


class CpuDevice(Section):
    """A host's processor as a place to run engines."""

    cores: int = Field(gt=0, description="Cores engines may use.")
    memory: PositiveBytes = Field(description="Memory engines may use.", examples=["24GiB"])


class Device(Section):
    """Some equal GPUs of a host, or its processor."""

    gpu: str | None = Field(
        None, description="GPU type as in `enova explain gpus`.", examples=["h100-sxm-80gb"]
    )
    count: int = Field(1, gt=0, description="How many of them.")
    cpu: CpuDevice | None = Field(None, description="The processor instead of a GPU.")


class Host(Section):
    """One machine of the pool."""

    name: Name = Field(description="What the host is called in plans and logs.")
    address: str | None = Field(None, description="How to reach it; left out, this machine.")
    devices: Literal["auto"] | list[Device] = Field(
        "auto", description="What it has; `auto` asks the NVIDIA driver, then the processor."
    )


def _not_switched_on(value: object) -> object:
    """YAML's ``off`` is a boolean."""
    return "off" if value is False else value


class Pool(Section):
    """Where replicas may run and what that costs."""

    target: Literal["process", "compose", "ansible", "kubernetes"] = Field(
        "process", description="How replicas are run."
    )
    hosts: list[Host] = Field(
        default_factory=lambda: [Host.model_construct(name="local")],
        min_length=1,
        description="The machines; left out, this one with what it has.",
    )
    on_lost_host: Literal["wait", "replace"] = Field(
        "wait",
        description="`replace` starts a lost host's replicas elsewhere; `wait` leaves them be.",
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="Price of one GPU of a type; it wins over the catalog's.",
        examples=[{"h100-sxm-80gb": "2.49 USD/h"}],
    )
    budget: PositivePrice | None = Field(None, description="Most the pool may cost.")
    reconciler: Annotated[
        Literal["auto", "container", "off"],
        BeforeValidator(_not_switched_on),
        WithJsonSchema({"enum": ["auto", "container", "off", False]}),
    ] = Field(
        "auto",
        description="Who runs `enova reconcile`, which keeps the stack at its spec. `container`: "
        "a service of the stack does, from the image `enova:<version>` (`make image`); target "
        "compose only. `off`: you do, by hand or by the systemd unit that `enova render` writes. "
        "`auto`: `container` where that image is there, otherwise `off`.",
    )


def _switched(value: object) -> object:
    """YAML's booleans mean ``on`` and ``off``."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(_switched),
    WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
]
_ENABLED = _Shorthand("enabled")


class Monitor(Section):
    """One program of the stack's monitoring. Written alone, `auto`, `on` or `off`."""

    enabled: Switch = Field(
        "auto",
        description="`auto` runs it where the target can: on `process` when its program is on "
        "PATH. `on` refuses where it cannot; `true` and `false` mean `on` and `off`.",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port it is reached at; left out, a free one on `process`. On `compose` 32826 "
        "for Prometheus, 32827 for Grafana, 32893 for OTLP, and none for the others.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    image: str | None = Field(
        None, description="Container image; left out, the catalog's. `process` does not use one."
    )


class Alertmanager(Monitor):
    """Who is told of alerts."""

    webhook: SecretReference | None = Field(
        None,
        description="Where the URL is read that alerts are sent to, for example of a chat or an "
        "on-call service; left out, alerts are only shown.",
        examples=[{"env": "ALERTS_URL"}],
    )


class Grafana(Monitor):
    """Dashboards."""

    password: SecretReference | None = Field(
        None,
        description="Where the password of the user `admin` is read; left out, one is generated "
        "and kept in the stack's state folder.",
        examples=[{"file": "/run/secrets/grafana"}],
    )


class Otel(Monitor):
    """The OpenTelemetry collector."""

    sampling: Fraction = Field(
        1.0,
        description="Share of requests that are traced. A client's `traceparent` goes on; it can "
        "forbid the tracing of its request, not force it.",
        examples=["10%"],
    )


class Monitoring(Section):
    """How the stack is measured, and which programs show it."""

    prometheus: Annotated[Monitor, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Monitor.model_construct(),
        description="Samples, rules and alerts. Without it the reconciler reads engines and "
        "gateway itself.",
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="The same as `monitoring.prometheus.port`."
    )
    scrape_interval: PositiveDuration = Field(5.0, description="Time between two readings.")
    retention: PositiveDuration = Field(
        86400.0 * 4,
        description="How long samples are kept. Error budgets look back 3 days.",
    )
    alertmanager: Annotated[Alertmanager, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Alertmanager.model_construct(),
        description="Groups alerts and tells of them.",
    )
    grafana: Annotated[Grafana, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Grafana.model_construct(),
        description="Dashboards. Not run on `process`.",
    )
    tempo: Annotated[Monitor, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Monitor.model_construct(),
        description="Keeps traces. Not run on `process`.",
    )
    otel: Annotated[Otel, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Otel.model_construct(),
        description="OpenTelemetry collector: takes traces by OTLP, the gateway's and the "
        "engines' by themselves. Not run on `process`.",
    )
    dcgm: Annotated[Monitor, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Monitor.model_construct(),
        description="DCGM exporter: what GPUs say of themselves, where there are any. Not run on "
        "`process`.",
    )
    node: Annotated[Monitor, BeforeValidator(_ENABLED.widen), _ENABLED] = Field(
        default_factory=lambda: Monitor.model_construct(),
        description="Node exporter: what the machine says of itself.",
    )


def _not_a_boolean(value: object) -> object:
    """True equals 1 in Python, not in a spec."""
    return str(value) if isinstance(value, bool) else value


class Spec(Section):
    """One stack: the services, their gateway, the pool they may use and how they are watched."""

    version: Annotated[Literal[1], BeforeValidator(_not_a_boolean)] = Field(
        description="Version of this format.", examples=[1]
    )
    name: Name = Field(description="Name of the stack.", examples=["chat"])
    services: dict[Name, Service] = Field(
        min_length=1,
        description="The services by name.",
        examples=[{"chat": {"model": "org/name", "traffic": {"peak": "20/s"}}}],
    )
    gateway: Gateway = Field(
        default_factory=lambda: Gateway.model_construct(),
        description="The one door of the stack.",
    )
    pool: Pool = Field(
        default_factory=lambda: Pool.model_construct(),
        description="Where replicas may run and what that costs.",
    )
    monitoring: Monitoring = Field(
        default_factory=lambda: Monitoring.model_construct(),
        description="How the stack is measured.",
    )

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Self:
        """Validate plain data. Raises pydantic.ValidationError; ``spec.load`` turns it around."""
        return cls.model_validate(data)
