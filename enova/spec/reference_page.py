"""The spec field by field as one Markdown page: ``docs/spec.md`` is exactly this text.

In: the models. Out: the page. A test holds the committed page equal to it.
"""

from __future__ import annotations

from enova.base.source import Path
from enova.spec.reference import Field, all_fields, explain_path

INTRODUCTION = """\
# The spec, field by field

One file holds one stack. `enova init` writes one to start from, `enova validate` shows every
problem in it at once, `enova explain services.chat.goals.ttft` prints one field of this page.
This page is generated from the models (`make golden`), so it says what the program does.

- **Units are written**: `400ms`, `20/s`, `24GiB`, `2.49 USD/h`, `99%`. A bare number where a
  unit is needed is a problem.
- **A bare value stands for a section's main field** where its type says so: `model: org/name`,
  `engine: emulator`, `goals: {ttft: 400ms}` (at p95), `input_tokens: 512` (the mean).
- **Overlays**: `enova plan chat.enova.yaml --env prod` lays `chat.prod.enova.yaml` over it. Maps
  merge; lists are replaced, unless their items have a `name`.
- **Interpolation** in values: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `$$` for a
  dollar sign. Unset is a problem.
- **Secrets only by reference**: `{env: NAME}`, `{file: path}` or `{command: [...]}`. The value is
  read at the moment it is needed and never enters a plan, a record, a log or the arguments of a
  process.
- **Paths** that begin with `./` or `../` start at the spec's folder.

`NAME` below stands for a name you choose.
"""


def reference_page() -> str:
    """The whole page, with a newline at the end."""
    parts = [INTRODUCTION]
    for field in all_fields():
        if field.path:
            parts.append(_entry(field))
    return "\n".join(parts) + "\n"


def _entry(field: Field) -> str:
    dotted = _dotted(field.path)
    page = explain_path(dotted)
    level = "##" if len(field.path) == 1 else "###"
    lines = [f"{level} `{dotted}`", "", page.description.replace("\n", " "), ""]
    facts = [f"Type: {page.type}."]
    if page.default:
        facts.append(f"Default: `{page.default}`.")
    facts += [f"Example: `{example}`." for example in page.examples]
    return "\n".join([*lines, " ".join(facts), ""])


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)
