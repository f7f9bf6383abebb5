"""What enova itself plans that so many replicas carry: scenarios load above and below it."""

from __future__ import annotations

from enova.capacity.sizing.choice import Choice
from enova.policy.scaling import TARGET_UTILISATION
from enova.services.reconciler.capacity import capacity_tables
from enova.spec.load import load_document
from enova.stack.plan import Ask
from tests.scenario.world import Stack


def planned_rate(stack: Stack, service: str, replicas: int) -> float:
    """Requests/s up to which the reconciler is content with so many replicas."""
    record = stack.record
    choices = {name: Choice.from_plain(data) for name, data in record["choices"].items()}
    applied = Ask(load_document(record["document"]), record["document"], choices)
    return capacity_tables(applied)[service].rate(replicas) * TARGET_UTILISATION
