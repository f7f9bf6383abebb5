"""Text that ships with enova beside its code: systemd units, the gateway's Lua filter.

In: a name below ``templates``. Out: its text, from the installed package or from a checkout.
"""

from __future__ import annotations

from pathlib import Path

import enova
from enova.base.errors import Bug

_PACKAGE = Path(enova.__file__).parent
PACKAGE_ROOT = _PACKAGE.parent
"""What must be on the module path for ``import enova``."""


def template_text(name: str) -> str:
    """The text of ``templates/<name>``. Raises Bug when the installation lacks it."""
    for folder in (_PACKAGE / "_data" / "templates", _PACKAGE.parent / "templates"):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise Bug(f"templates/{name} is not part of this installation")
