"""Secrets exist as references until a driver needs the value; a value never prints itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SecretRef:
    """Where a secret can be read: exactly one of an environment variable, a file, a command."""

    env: str | None = None
    file: str | None = None
    command: tuple[str, ...] = ()

    def describe(self) -> str:
        """The reference in words, safe to print."""
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.file is not None:
            return f"file {self.file}"
        return f"command {self.command[0]}" if self.command else "nothing"

    def why_not_elsewhere(self) -> str:
        """Why a container that is given variables and files cannot read it; "" when it can."""
        if self.command:
            return "is a program of this machine"
        if self.file is not None and not self.file.startswith("/"):
            return "is not named by its whole path"
        return ""


class Secret:
    """A resolved value that every printer shows as ``[secret]``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; only drivers call this, at the moment of use."""
        return self._value

    def __repr__(self) -> str:
        return "[secret]"

    __str__ = __repr__
