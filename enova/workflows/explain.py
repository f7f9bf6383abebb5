"""``enova explain``: pages about problem codes, fields of the spec, GPU types, reasons, signals.

In: what the user asked about. Out: a page's text. Touches nothing outside the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from enova.base.errors import SpecError
from enova.base.problems import Problem, inert
from enova.base.units import format_bytes
from enova.spec.codes import CODES, explain_code
from enova.spec.reference import explain_path
from enova.spec.suggest import nearest
from enova.stack.owners import Reason

_CODE = re.compile(r"^[EN][0-9OI]{3}$", re.IGNORECASE)

REASONS: Mapping[Reason, str] = {
    Reason.NEW: "it is asked for and was never applied",
    Reason.SPEC_CHANGED: "the spec asks for something else than what was applied last",
    Reason.CHOICE_CHANGED: "enova.lock holds another choice than the one applied last",
    Reason.ENGINE_UPGRADED: "another version of the engine is asked for",
    Reason.DRIFTED: "what runs was changed by somebody else since it was applied",
    Reason.SCALED: "the scaler ordered another number of replicas",
    Reason.MISSING: "it was applied and does not run any more",
    Reason.FAILED_BEFORE: "it was started before and ended",
    Reason.UNHEALTHY: "it runs and does no work, so it is replaced",
    Reason.HOST_LOST: "its host does not answer and pool.on_lost_host says replace",
    Reason.INTERRUPTED: "an earlier apply was interrupted before it was done with it",
    Reason.ORPHANED: "it runs and belongs to this stack, but nothing on record asks for it",
    Reason.REMOVED: "the spec does not have it any more",
    Reason.DESTROYED: "the whole stack is destroyed",
    Reason.REQUESTED: "enova mon was told to start or stop the monitoring part",
}
"""Every reason a plan may give for a change."""


def explain(subject: str) -> str:
    """The page of a subject, "" for the list of subjects. No newline at the end.

    Raises SpecError, with a near miss, when there is no such page.
    """
    word = subject.strip()
    if not word:
        return _contents()
    if _CODE.match(word):
        page = explain_code(word)
        if page is not None:
            return page.text()
        raise _unknown(f'no problem code "{inert(word)[:40]}"', nearest(word.upper(), CODES))
    if word in _PAGES:
        return _PAGES[word][1]()
    if word == "spec":
        word = ""
    try:
        return explain_path(word).text()
    except SpecError:
        near = nearest(word, _PAGES)
        if near is None:
            raise
        raise _unknown(f'nothing is called "{inert(word)[:40]}"', near) from None


def _contents() -> str:
    rows = [
        ("enova explain E107", "a problem code, as printed beside a problem"),
        ("enova explain goals.ttft", "a field of the spec; the end of its path will do"),
        ("enova explain spec", "the sections of a spec"),
        *((f"enova explain {word}", about) for word, (about, _) in _PAGES.items()),
    ]
    return "\n".join(["What can be explained:", "", *_table(rows)])


def _gpus() -> str:
    from enova.capacity.catalog import gpus, prices

    rows = [("type", "memory", "bf16 TFLOP/s", "bandwidth TB/s", "$/h")]
    for name, facts in gpus.all_gpus().items():
        price = prices.price_of(name)
        rows.append(
            (
                name,
                format_bytes(facts.memory_bytes),
                f"{facts.bf16_flops / 1e12:.0f}",
                f"{facts.bandwidth / 1e12:.2f}",
                f"{price.usd_per_hour:.2f}" if price else "-",
            )
        )
    source = next((p.source for name in gpus.all_gpus() if (p := prices.price_of(name))), "")
    about = (
        "GPU types for pool.hosts.devices.gpu. Other spellings and the driver's own names are "
        "understood."
    )
    lines = [about, "", *_table(rows)]
    if source:
        lines += ["", f"Prices: {source}. Your own go into pool.prices."]
    return "\n".join(lines)


def _reasons() -> str:
    rows = [(reason.value, REASONS[reason]) for reason in Reason]
    return "\n".join(["Why a plan changes something:", "", *_table(rows)])


def _signals() -> str:
    from enova.policy.signals import MEANINGS

    rows = [(name, meaning.unit, meaning.text) for name, meaning in sorted(MEANINGS.items())]
    return "\n".join(["What is read from a running service:", "", *_table(rows)])


def _codes() -> str:
    rows = [(code, page.title) for code, page in CODES.items()]
    return "\n".join(["Problem codes:", "", *_table(rows)])


_PAGES: Mapping[str, tuple[str, Callable[[], str]]] = {
    "codes": ("every problem code with its title", _codes),
    "gpus": ("GPU types, their memory, speed and price", _gpus),
    "reasons": ("why a plan changes something", _reasons),
    "signals": ("what is measured on a running service", _signals),
}


def _unknown(message: str, near: str | None) -> SpecError:
    hint = f'Did you mean "{near}"?' if near else "enova explain lists what there is"
    return SpecError([Problem("E102", message, hint=hint)])


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
