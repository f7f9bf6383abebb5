"""Why a service gets the configuration it gets: goals, choices and rejections, memory, numbers.

In: a plan, whose ``recommendation`` holds plain data so that a saved plan shows the same. Out:
lines. Every number printed stands in the plan's JSON, at most in another unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap

from enova.base.units import format_bytes, format_duration, format_rate, format_share
from enova.cli.views.line import Line, columns
from enova.spec.load import load_document
from enova.spec.model import Lengths, Service, Traffic
from enova.stack.plan import Plan

Data = Mapping[str, object]

MOST_ROWS = 8
"""Rows of the table of choices unless everything is asked for; all are in the JSON."""

WIDTH = 100

METRICS = ("ttft", "tpot", "itl", "e2e")
PERCENTILES = ("p50", "p90", "p95", "p99")


def recommendation_lines(plan: Plan, *, verbose: bool = False) -> list[Line]:
    """One block a service, empty when the plan carries no recommendation."""
    if not plan.recommendation or plan.next_document is None:
        return []
    services = load_document(plan.next_document).services
    lines: list[Line] = []
    for told in plan.recommendation:
        name = str(told["service"])
        service = services[name]
        columns_shown = _latency_columns(service)
        lines.append(Line(_goals(name, service), bold=True))
        if told.get("from") == "sizing":
            asked = service.goals.attainment is not None
            lines += _sized(told, columns_shown, attained=asked, verbose=verbose)
        else:
            words = choice_words(_map(told["choice"]))
            lines += _folded(f"from {told.get('from')}: {words}")
        lines += _predicted(_map(told["choice"]), columns_shown, service)
        lines.append(Line())
    return lines


def choice_words(choice: Data) -> str:
    """A choice on one line: what it takes, what it is, what it costs."""
    device = f"{choice['pretends']} (emulated)" if choice.get("pretends") else choice["device"]
    parts = [f"{choice['replicas']} x {device}"]
    if choice.get("cores"):
        parts[0] += f" with {choice['cores']} cores"
    for key, short in (("tensor_parallel", "tp"), ("pipeline_parallel", "pp")):
        if choice.get(key) != 1:
            parts.append(f"{short}{choice[key]}")
    if choice.get("quantization"):
        parts.append(str(choice["quantization"]))
    if choice.get("kv_cache_dtype") != "auto":
        parts.append(f"KV cache {choice['kv_cache_dtype']}")
    parts.append(f"{choice['engine']} {choice['engine_version']}")
    parts.append(f"max_model_len {choice['max_model_len']}")
    parts.append(f"max_num_seqs {choice['max_num_seqs']}")
    usd = choice.get("usd_per_hour")
    if usd is not None:
        parts.append(f"{_number(usd):.2f} $/h")
    return ", ".join(parts)


def _goals(name: str, service: Service) -> str:
    """What was asked of the service: its model, traffic and goals."""
    traffic = service.traffic
    parts = [name, service.model.id, f"peak {format_rate(traffic.peak)}"]
    ways = (("in", "input_tokens"), ("out", "output_tokens"))
    parts.append(", ".join(f"{_lengths(traffic, key)} {way}" for way, key in ways))
    for metric in METRICS:
        limits: Mapping[str, float] = getattr(service.goals, metric) or {}
        parts += [
            f"{metric.upper()} {p} <= {format_duration(limits[p])}"
            for p in PERCENTILES
            if p in limits
        ]
    if service.goals.attainment is not None:
        parts.append(f"all at once >= {format_share(service.goals.attainment)}")
    if "success_rate" in service.goals.model_fields_set:
        parts.append(f"success >= {format_share(service.goals.success_rate)}")
    return "  ".join(parts)


def _lengths(traffic: Traffic, key: str) -> str:
    """Token counts as written; a default is not in the plan's document and has no number here."""
    if traffic.trace is not None:
        return "tokens of the trace"
    lengths: Lengths = getattr(traffic, key)
    for words, value in (("", lengths.mean), ("p50 ", lengths.p50), ("p95 ", lengths.p95)):
        if value is not None and key in traffic.model_fields_set:
            return f"{words}{value:g} tokens"
    return "default tokens"


def _latency_columns(service: Service) -> tuple[str, ...]:
    """The latencies the goals name; without goals the first token's and the next ones'."""
    found = tuple(
        f"{metric}_{p}"
        for metric in METRICS
        for p in PERCENTILES
        if p in (getattr(service.goals, metric) or {})
    )
    return found or ("ttft_p95", "tpot_p95")


def _sized(told: Data, shown: Sequence[str], *, attained: bool, verbose: bool) -> list[Line]:
    """The table; ``attained`` adds the share of requests within all goals at once."""
    rows = [_map(row) for row in _list(told["rows"])]
    # The chosen row is first, rejections are last: both belong into the short form.
    cut = rows if verbose or len(rows) <= MOST_ROWS else rows[:MOST_ROWS]
    head = (
        "",
        "choice",
        "GPUs",
        *(f"{_metric(key)} ms" for key in shown),
        *(["all goals %"] if attained else []),
        "KV spare",
        "$/h",
        "$/M tok",
    )
    cells = [(*head, ""), *(_row(row, shown, attained=attained) for row in cut)]
    texts = columns(cells, indent="  ", right=range(2, len(head)))
    lines = [Line()]
    for text, row in zip(texts, [None, *cut], strict=True):
        chosen = row is not None and row["verdict"] == "chosen"
        lines.append(Line(text, "green" if chosen else None))
    if len(cut) < len(rows):
        lines.append(Line(f"    and {len(rows) - len(cut)} more, shown with -v"))
    lines += _folded(f"numbers: {told['numbers']}")
    for words in _list(told.get("not_predicted", ())):
        lines += _folded(f"not predicted: {words}")
    lines += _memory(told)
    lines += _folded(f"chosen: {choice_words(_map(told['choice']))}")
    if verbose:
        lines += [Line(f"  if {words}") for words in _list(told.get("sensitivity", ()))]
    return lines


def _row(row: Data, shown: Sequence[str], *, attained: bool) -> tuple[str, ...]:
    latencies = _map(row["latencies"])
    spare = row.get("kv_spare")
    reason = str(row["reason"])
    if row["verdict"] == "not simulated" and reason:
        reason = f"not simulated: {reason}"
    return (
        ">" if row["verdict"] == "chosen" else "",
        str(row["label"]),
        str(row["devices"]) if row["devices"] else "-",
        *(_figure(latencies.get(key)) for key in shown),
        *([_shares(row.get("attainment"))] if attained else []),
        "" if spare is None else f"{100 * _number(spare):.0f} %",
        _money(row.get("usd_per_hour"), "{:.2f}"),
        _money(row.get("usd_per_million_tokens"), "{:.3g}"),
        reason,
    )


def _memory(told: Data) -> Iterable[Line]:
    """Where one rank's memory goes, in the order of the ledger."""
    items = [_map(line) for line in _list(told["ledger"])]
    if not items:
        return
    words = ", ".join(f"{item['item']} {format_bytes(_number(item['bytes']))}" for item in items)
    yield from _folded(f"memory of one device: {words}")


def _predicted(choice: Data, shown: Sequence[str], service: Service) -> Iterable[Line]:
    """What one replica is expected to do at the peak, and how sure that is."""
    prediction = _map(choice["prediction"])
    latencies = _map(prediction["latencies"])
    parts = [f"{_metric(key)} {_figure(latencies[key])} ms" for key in shown if latencies.get(key)]
    parts.append(f"{_figure(prediction['tokens_per_s'], 1)} tokens/s")
    parts.append(f"{_figure(prediction['running'], 1)} running")
    attained = _map(prediction["attainment"])
    share = service.goals.attainment
    if share is None:
        parts.append(f"{format_share(_number(attained['value']))} within the goals")
    else:
        parts.append(f"{_shares(attained)} % within all goals, {format_share(share)} asked")
    word = "emulated" if choice["engine"] == "emulator" else "predicted"
    rate = format_rate(_number(prediction["rate_per_s"]))
    yield from _folded(f"{word} at {rate} a replica, {attained['source']}: {', '.join(parts)}")
    most = format_rate(_number(choice["rate_per_replica"]))
    tokens = _map(prediction["kv_tokens"])
    yield from _folded(
        f"one replica holds the goals up to {most}; its KV cache holds "
        f"{_number(tokens['value']):.0f} tokens"
    )


def _folded(text: str) -> Iterable[Line]:
    """A long sentence on lines that fit most terminals."""
    for number, part in enumerate(wrap(text, WIDTH, break_long_words=False)):
        yield Line(f"  {part}" if number == 0 else f"      {part}")


def _metric(key: str) -> str:
    """``ttft_p95`` as ``TTFT p95``."""
    metric, _, percentile = key.partition("_")
    return f"{metric.upper()} {percentile}"


def _figure(data: object, scale: float = 1000) -> str:
    """A figure with its interval, latencies in milliseconds."""
    if data is None:
        return ""
    figure = _map(data)
    value, low, high = (scale * _number(figure[key]) for key in ("value", "low", "high"))
    if low == high:
        return f"{_short(value)}"
    return f"{_short(value)} ({_short(low)}-{_short(high)})"


def _shares(data: object) -> str:
    """A share with its interval, in percent."""
    if data is None:
        return ""
    figure = _map(data)
    value, low, high = (
        format_share(_number(figure[key])).removesuffix(" %") for key in ("value", "low", "high")
    )
    return value if low == high else f"{value} ({low}-{high})"


def _short(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _money(value: object, form: str) -> str:
    return "" if value is None else form.format(_number(value))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a number is needed, not {value!r}")
    return float(value)


def _map(value: object) -> Data:
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping is needed, not {value!r}")
    return value


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"a list is needed, not {value!r}")
    return value
