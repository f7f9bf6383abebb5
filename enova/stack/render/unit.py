"""The systemd unit that keeps a stack at its spec after logins and boots.

In: the text of ``templates/enova-reconcile.service`` and where things are. Out: the unit's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReconcileUnit:
    """One reconciler as a service: its command and the environment it needs."""

    stack: str
    env: str
    command: Sequence[str]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_variables: Sequence[str] = ()
    """Variables the spec reads secrets from; the unit says where to put them."""

    @property
    def name(self) -> str:
        """The unit's file name."""
        return f"enova-{self.stack}{'-' + self.env if self.env else ''}.service"


def render_unit(unit: ReconcileUnit, template: str) -> str:
    """The unit's text."""
    from jinja2 import Environment, StrictUndefined

    # Not HTML: quoting is systemd's, done by ``quoted``.
    page = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)  # noqa: S701
    return page.from_string(template).render(
        stack=unit.stack,
        env=unit.env,
        name=unit.name,
        # In a command ``$`` would name a variable; in ``Environment=`` it is a letter.
        command=" ".join(quoted(word).replace("$", "$$") for word in unit.command),
        folder=unit.folder.replace("%", "%%"),
        environment=[quoted(f"{k}={v}") for k, v in sorted(unit.environment.items())],
        secret_variables=", ".join(unit.secret_variables),
    )


def quoted(word: str) -> str:
    """A word as systemd reads it back: ``%`` is its own sign, quotes keep spaces."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = word and all(c.isalnum() or c in "-_./=:,+@" for c in word)
    return text if plain else f'"{text}"'
