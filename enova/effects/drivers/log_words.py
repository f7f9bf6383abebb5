"""What an engine's own lines say: which one explains a failure, which phase of a start it reached.

In: lines as text. Out: words for people. The words looked for are those of vLLM 0.2x and 0.3x; an
engine that says nothing known is simply quoted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PREFIX = re.compile(
    r"^(?:\([A-Za-z]\w*(?: pid=\d+)?\)\s*)?"
    r"(?:(?:ERROR|CRITICAL|WARNING|INFO)\s+[\d-]+ [\d:.,]+\s+(?:\[[^\]]*\]\s*)?)?"
)
_CAUSES = (
    re.compile(r"^[\w./-]*(?:\s[\w-]+)?: error: .+"),
    re.compile(r"^\s*Value error, .+"),
    re.compile(r"^(?:[a-zA-Z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit): .+"),
    re.compile(r"^(?:ERROR|CRITICAL|FATAL|error|fatal)\b[:\s].+"),
    re.compile(r"^\[[\d-]+ [\d:.]+\]\[\d+\]\[(?:critical|error)\].+"),
    re.compile(r".*\bmsg=.*\berr=.+"),
)
_GENERIC = re.compile(
    r"Engine core initialization failed|EngineCore failed to start|EngineDeadError|"
    r"WorkerProc initialization failed|Engine process failed to start|"
    r"validation errors? for|BrokenPipeError|CancelledError|KeyboardInterrupt|SystemExit"
)
_PYDANTIC = re.compile(r"\s*\[type=\w+, input_value=.*$")
_REASON_MOST = 400
_ADDRESS_IN_USE = re.compile(r"address already in use|Errno 98|EADDRINUSE", re.IGNORECASE)

_PHASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Downloading|Fetching \d+ files", re.IGNORECASE), "download"),
    (re.compile(r"Starting to load model|Loading safetensors|loading weights", re.I), "weights"),
    (re.compile(r"Model loading took|Loading weights took"), "weights loaded"),
    (re.compile(r"torch\.compile|Compiling a graph", re.IGNORECASE), "compile"),
    (re.compile(r"Capturing CUDA graph", re.IGNORECASE), "graphs"),
    (re.compile(r"GPU KV cache size|KV cache size|# GPU blocks"), "kv cache"),
    (re.compile(r"Application startup complete"), "server"),
)


def reason(lines: Sequence[str]) -> str | None:
    """The line that says why a process failed, without the logger's prefix; None if none does.

    The last line that names a cause; lines that only say that something else failed give way.
    """
    generic = None
    for line in reversed(lines):
        text = _PREFIX.sub("", line.rstrip())
        if any(cause.match(text) for cause in _CAUSES):
            if not _GENERIC.search(text):
                return _short(text)
            generic = generic or _short(text)
    return generic


def _short(text: str) -> str:
    """Without what pydantic appends about its input, and of readable length."""
    text = _PYDANTIC.sub("", text.strip())
    return text if len(text) <= _REASON_MOST else f"{text[: _REASON_MOST - 4]} ..."


def address_in_use(lines: Sequence[str]) -> bool:
    """Whether a process ended because somebody else took its port."""
    return any(_ADDRESS_IN_USE.search(line) for line in lines)


def phases(lines: Sequence[str]) -> list[str]:
    """The phases of a start that these lines announce, in the order they were reached."""
    found: list[str] = []
    for line in lines:
        for pattern, word in _PHASES:
            if pattern.search(line) and word not in found:
                found.append(word)
    return found
