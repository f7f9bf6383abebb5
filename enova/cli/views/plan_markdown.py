"""A plan as Markdown, for a pull request: the summary first, the changes as a table, all folded."""

from __future__ import annotations

from enova.cli.views.plan_text import field_text, nothing, plan_lines, summary
from enova.stack.changes import MEANING, Symbol
from enova.stack.plan import Plan


def plan_markdown(plan: Plan) -> str:
    """The whole comment, ending with a newline."""
    env = f" ({plan.env})" if plan.env else ""
    parts = [f"### enova plan: {plan.stack}{env}", ""]
    if plan.is_empty:
        parts += [nothing(plan), ""]
    else:
        parts += [f"**{summary(plan)}**", ""]
        if plan.guards:
            parts += [*(f"- **Refused** {g.address}: {g.message}" for g in plan.guards), ""]
        parts += ["| | Address | Reason | Fields |", "|---|---|---|---|"]
        for change in plan.changes:
            # What is added is all new: its fields are below, under everything.
            added = change.symbol is Symbol.ADD
            fields = "" if added else "<br>".join(_cell(field_text(f)) for f in change.fields)
            symbol = f"`{change.symbol.value}` {MEANING[change.symbol]}"
            reason = change.reason.value + (f": {change.detail}" if change.detail else "")
            parts.append(f"| {symbol} | `{change.address}` | {_cell(reason)} | {fields} |")
        parts.append("")
    text = "\n".join(line.text for line in plan_lines(plan, verbose=True))
    parts += ["<details><summary>Everything</summary>", "", "```text", text, "```"]
    parts += ["", "</details>"]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
