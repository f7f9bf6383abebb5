"""The gateway's access log as a ``Trace``: what really arrived, kept bounded on disk.

In: the folder with ``access.log`` and its rotated files (``effects.access_log``). Out: a trace
that scaling, what-if and detection read. The log holds requests that have ended; token counts are
None because the gateway does not read answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from enova.capacity.workload import Trace, TraceRequest
from enova.effects import access_log
from enova.effects.access_log import AccessRecord

LOG_NAME = "access.log"
KEPT_FILES = 7
"""Rotated files beside the one being written."""

DEFAULT_BYTES = 512 * 2**20
"""About a million requests: Envoy's line is some 480 bytes."""


def keep_bounded(
    folder: Path, reopen: Iterable[Callable[[], None]], *, max_bytes: int = DEFAULT_BYTES
) -> bool:
    """Rotate when it is time, so that all files together stay near ``max_bytes``. True when done.

    ``reopen`` are the ``GatewayAdmin.reopen_logs`` of every gateway process that writes there.
    Call it on every tick: between two calls the current file may grow past its share.
    """
    share = max(1, max_bytes // (KEPT_FILES + 1))
    return access_log.rotate(folder / LOG_NAME, reopen, max_bytes=share, keep=KEPT_FILES)


def read_trace(
    folder: Path, *, since: float, until: float | None = None, service: str | None = None
) -> Trace:
    """Requests that arrived from ``since`` on and before ``until`` (Unix seconds), by arrival.

    ``arrival_s`` in the trace counts from ``since``. Requests that reached no service (no key, an
    unknown model) are left out; those a service could not answer for lack of replicas are in.
    """
    found: list[TraceRequest] = []
    position = access_log.START
    while True:
        records, after = access_log.read_new(folder / LOG_NAME, position)
        for record in records:
            late = until is not None and record.arrival_s >= until
            if record.arrival_s < since or late or record.service is None:
                continue
            if service is None or record.service == service:
                found.append(trace_request(record, record.service, since=since))
        if after == position:
            break
        position = after
    found.sort(key=lambda r: (r.arrival_s, r.service, r.replica, r.total_s or 0.0))
    return Trace(tuple(found))


def trace_request(record: AccessRecord, service: str, *, since: float) -> TraceRequest:
    """One line of the log as a request of a trace.

    The first byte is a first token only in a streamed answer that succeeded. The log has
    milliseconds, so the arrival is rounded to them.
    """
    first_token = record.first_byte_s if record.stream and record.status < 400 else None
    return TraceRequest(
        arrival_s=round(record.arrival_s - since, 3),
        service=service,
        replica=record.instance or "",
        prompt_tokens=None,
        output_tokens=None,
        ttft_s=first_token,
        total_s=record.duration_s,
        status=record.status,
        request_bytes=record.request_bytes,
        response_bytes=record.response_bytes,
    )
