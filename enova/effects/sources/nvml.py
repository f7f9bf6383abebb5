"""GPUs of this machine, as the NVIDIA driver reports them.

Out: devices, or why there are none to see. Nothing is changed, and no GPU is opened for work.
"""

from __future__ import annotations

from dataclasses import dataclass

import pynvml

from enova.capacity.catalog.gpus import canonical_name
from enova.capacity.inventory import Device


@dataclass(frozen=True)
class Seen:
    """The GPUs, by the driver's index; ``problem`` says why there are none."""

    devices: tuple[Device, ...] = ()
    problem: str | None = None


def gpus() -> Seen:
    """Ask the driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Seen(problem=_words(error))
    try:
        return Seen(tuple(_device(index) for index in range(pynvml.nvmlDeviceGetCount())))
    except pynvml.NVMLError as error:
        return Seen(problem=_words(error))
    finally:
        pynvml.nvmlShutdown()


def _device(index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Device(
        index=index,
        name=canonical_name(_text(pynvml.nvmlDeviceGetName(handle))),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def _text(value: str | bytes) -> str:
    """Older bindings answer with bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(error: Exception) -> str:
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return "the NVIDIA driver is not installed (libnvidia-ml.so.1 was not found)"
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA driver is installed but not loaded"
    return f"the NVIDIA driver answers: {error}"
