"""References to secrets: as the spec writes them, and as everybody else names them.

In: a section of the spec. Out: a ``SecretRef``. No secret is read here.
"""

from __future__ import annotations

from enova.base.secret import SecretRef
from enova.spec.model import SecretReference


def secret_ref(reference: SecretReference) -> SecretRef:
    """The spec's reference as the word everybody else uses."""
    return SecretRef(env=reference.env, file=reference.file, command=tuple(reference.command or ()))
