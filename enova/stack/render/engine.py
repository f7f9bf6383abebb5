"""An engine's command line and environment, from the template, its placement and its endpoint.

Pure: the same values give the same words. What only a driver knows (the program's path, the port,
secret values) comes in as arguments or is added by the driver. The emulator is spelled as vLLM is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from enova.capacity.catalog import engines
from enova.stack.observed import Placement
from enova.stack.resources import ReplicaTemplate, Scalar

_FLAG = re.compile(r"^[A-Za-z][A-Za-z0-9_.-]*$")

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"


def command(
    template: ReplicaTemplate, *, program: Sequence[str], host: str, port: int
) -> tuple[str, ...]:
    """The words of the command. ``program`` is what comes before the model.

    Host, port and served name come last and so win over anything in ``args``: the gateway relies
    on them. Raises ValueError for a model or flag that would be read as something else.
    """
    if template.model.startswith("-"):
        raise ValueError(f'a model may not begin with a dash: "{template.model}"')
    words = [*program, template.model]
    for flag, value in template.args:
        words += _argument(flag, value)
    words += _argument("served-model-name", template.served_name)
    words += _argument("host", host)
    words += _argument("port", port)
    return tuple(words)


def at_port(words: Sequence[str], port: int) -> tuple[str, ...]:
    """The same command at another port: its last word."""
    return (*words[:-1], str(port))


def environment(
    template: ReplicaTemplate, placement: Placement, *, address: str = "", instance: str = ""
) -> dict[str, str]:
    """What the engine's environment holds beside the driver's own and secrets; sorted by name.

    Devices are pinned here: GPUs by CUDA_VISIBLE_DEVICES in the order of the driver's list, on a
    processor by the number of threads (the driver sets which cores; the engine must not). An
    engine that sends spans puts ``address`` and ``instance`` into them.
    """
    values = {"PYTHONUNBUFFERED": "1"}
    if template.engine == "vllm":
        values |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if not placement.gpus and placement.cores:
            values["OMP_NUM_THREADS"] = str(len(placement.cores))
            values["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    facts = engines.facts(template.engine, template.engine_version)
    traces = facts.flags.get("traces_endpoint") in dict(template.args)
    if traces:
        values["OTEL_SERVICE_NAME"] = template.service
    values |= dict(template.env)
    if traces and address:
        own = f"enova.address={address},enova.instance={instance}"
        stated = values.get("OTEL_RESOURCE_ATTRIBUTES")
        values["OTEL_RESOURCE_ATTRIBUTES"] = f"{stated},{own}" if stated else own
    values["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in placement.gpus)
    if placement.gpus:
        values["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return dict(sorted(values.items()))


def _argument(flag: str, value: Scalar) -> list[str]:
    """One flag: True is the bare flag, False its negation, None nothing."""
    if not _FLAG.match(flag):
        raise ValueError(f'"{flag}" is not the name of an engine argument')
    if value is None:
        return []
    if value is True:
        return [f"--{flag}"]
    if value is False:
        return [f"--no-{flag}"]
    text = str(value)
    # A value that begins with a dash would be read as the next flag.
    return [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
