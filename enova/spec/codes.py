"""The registry of problem codes: what ``enova explain E107`` prints.

In: a code. Out: its ``CodePage`` with title, reason, remedy and example. E1xx: one value or the
text of a file; E2xx: values that contradict each other; N3xx: notes, which stop nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enova.spec.pages import PAGES


@dataclass(frozen=True)
class CodePage:
    """One code's page. ``example`` is YAML, the wrong form first where there is one."""

    code: str
    title: str
    why: str
    fix: str
    example: str

    def text(self) -> str:
        """The page for a terminal, no newline at the end."""
        lines = [f"{self.code}  {self.title}", "", f"  {self.why}", "", f"  What to do: {self.fix}"]
        if self.example:
            lines += ["", *(f"    {line}".rstrip() for line in self.example.splitlines())]
        return "\n".join(lines)


CODES: Mapping[str, CodePage] = {
    code: CodePage(code, *(part.strip() for part in page)) for code, page in sorted(PAGES.items())
}


def explain_code(code: str) -> CodePage | None:
    """The page of a code in any spelling (``e107``, ``E1O7``), None when there is no such code."""
    return CODES.get(code.strip().upper().replace("O", "0").replace("I", "1"))
