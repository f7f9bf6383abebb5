"""What every target must do, whatever runs there. One obligation a test."""

from __future__ import annotations

import pytest

from enova.base.errors import ActionFailed, Refused
from enova.effects.drivers.ports import free_port
from enova.stack.actions import (
    ChangeGateway,
    Drain,
    Join,
    Leave,
    RemoveStack,
    StartGateway,
    StartReplica,
    StopGateway,
    StopMonitor,
    StopReplica,
    WaitServing,
)
from enova.stack.observed import Member, State
from enova.stack.resources import Route
from tests.contract.conftest import Target

A, B = "chat-replica-0-aaaaaa", "chat-replica-0-bbbbbb"
GATE = "gateway-aaaaaa"
SLOT = "chat/replica/0"


def start(target: Target, instance: str = A, **more: object) -> None:
    target.do(SLOT, StartReplica(instance, target.engine(**more), target.placement))


def serve(target: Target, instance: str = A) -> None:
    start(target, instance)
    target.do(SLOT, WaitServing(instance))


def test_a_replica_lives_from_start_to_stop(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    start(target)
    (instance,) = target.seen().instances
    assert (instance.id, instance.address, instance.state) == (A, SLOT, State.STARTING)
    assert instance.digest == target.engine().digest
    assert instance.fields == target.engine().fields()
    assert instance.placement == target.placement

    target.do(SLOT, WaitServing(A))
    (instance,) = target.seen().instances
    assert instance.state is State.SERVING
    assert not instance.tampered
    assert target.progress

    target.do(SLOT, Join("chat", A, 70))
    assert target.seen().members == {"chat": (Member(A, str(instance.endpoint), 70),)}

    target.do(SLOT, Drain("chat", A, 5.0))
    assert target.seen().members == {"chat": (Member(A, str(instance.endpoint), 70, True),)}
    target.do(SLOT, Leave("chat", A))
    assert target.seen().members == {}
    target.do(SLOT, StopReplica(A, 10.0))
    assert target.seen().instances == ()


def test_doing_an_action_again_is_harmless(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    steps = (
        StartReplica(A, target.engine(), target.placement),
        WaitServing(A),
        Join("chat", A, 100),
        StartGateway(GATE, target.gateway()),
        ChangeGateway(GATE, target.gateway(max_pending=7)),
        Drain("chat", A, 5.0),
        Leave("chat", A),
        StopReplica(A, 10.0),
        StopGateway(GATE, 0.0),
        RemoveStack(),
    )
    for step in steps:
        address = "gateway" if "Gateway" in type(step).__name__ else SLOT
        target.do(address, step)
        once = target.seen()
        target.do(address, step)
        assert target.seen() == once, step.kind


def test_a_drained_member_can_join_again(target: Target) -> None:
    serve(target)
    target.do(SLOT, Join("chat", A, 100))
    target.do(SLOT, Drain("chat", A, 5.0))
    target.do(SLOT, Join("chat", A, 40))
    (member,) = target.seen().members["chat"]
    assert (member.weight, member.draining) == (40, False)


def test_an_id_in_use_is_not_started_with_another_configuration(target: Target) -> None:
    start(target)
    before = target.seen()
    with pytest.raises(ActionFailed, match="another configuration"):
        start(target, served_name="other")
    assert target.seen() == before


def test_an_engine_that_refuses_names_its_reason_and_last_lines(target: Target) -> None:
    reason = "max_model_len 99999 is greater than the model allows"
    target.do(SLOT, StartReplica(A, target.refusing(reason), target.placement))
    with pytest.raises(ActionFailed) as caught:
        target.do(SLOT, WaitServing(A))
    assert caught.value.address == SLOT
    assert reason in caught.value.reason
    assert any(reason in line for line in caught.value.log_tail)
    (instance,) = target.seen().instances
    assert instance.state is State.EXITED
    assert reason in str(instance.exit_reason)
    target.do(SLOT, StopReplica(A, 10.0))
    assert target.seen().instances == ()


def test_what_is_not_there_is_stopped_already(target: Target) -> None:
    target.do(SLOT, Drain("chat", A, 1.0))
    target.do(SLOT, Leave("chat", A))
    target.do(SLOT, StopReplica(A, 1.0))
    target.do("gateway", StopGateway(GATE, 1.0))
    target.do("monitoring/prometheus", StopMonitor("prometheus-aaaaaa"))
    assert target.seen().instances == ()
    assert target.seen().components == ()


def test_only_what_answered_a_token_may_join(target: Target) -> None:
    with pytest.raises(ActionFailed, match="does not exist"):
        target.do(SLOT, Join("chat", A, 100))
    start(target)
    with pytest.raises(ActionFailed, match="not answered a token"):
        target.do(SLOT, Join("chat", A, 100))
    assert target.seen().members == {}


def test_waiting_for_what_was_never_started_fails(target: Target) -> None:
    with pytest.raises(ActionFailed, match="not started"):
        target.do(SLOT, WaitServing(A))


def test_two_instances_share_a_slot_while_one_replaces_the_other(target: Target) -> None:
    target.placement = type(target.placement)("local", cores=(0,))
    serve(target, A)
    target.placement = type(target.placement)("local", cores=(1,))
    serve(target, B)
    first, second = target.seen().instances
    assert (first.id, second.id) == (A, B)
    assert first.endpoint != second.endpoint
    target.do(SLOT, StopReplica(A, 10.0))
    assert [i.id for i in target.seen().instances] == [B]


def test_a_gateway_is_changed_in_place(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    serve(target)
    target.do(SLOT, Join("chat", A, 100))
    members = target.seen().members
    wanted = target.gateway(
        routes=(Route("chat", "chat"), Route("code", "coder")), max_pending=7, rate=1e6
    )
    target.do("gateway", ChangeGateway(GATE, wanted))
    (found,) = target.seen().components
    assert (found.id, found.digest, found.fields) == (GATE, wanted.digest, wanted.fields())
    assert (found.state, found.endpoint) == (State.SERVING, f"127.0.0.1:{target.port}")
    assert target.seen().members == members
    target.do("gateway", ChangeGateway(GATE, target.gateway()))
    assert target.seen().components[0].digest == target.gateway().digest


def test_a_gateway_moves_to_another_port(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    target.port = free_port((target.port,), seed=f"moved from {target.port}")
    target.do("gateway", ChangeGateway(GATE, target.gateway()))
    (found,) = target.seen().components
    assert (found.state, found.endpoint) == (State.SERVING, f"127.0.0.1:{target.port}")


def test_a_refused_change_leaves_the_gateway_as_it_was(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    before = target.seen()
    refused, reason = target.refused_gateway()
    with pytest.raises(ActionFailed, match=reason) as caught:
        target.do("gateway", ChangeGateway(GATE, refused))
    assert (caught.value.address, caught.value.step) == ("gateway", "change")
    assert target.seen() == before


def test_only_a_running_gateway_is_changed(target: Target) -> None:
    with pytest.raises(ActionFailed, match="does not run"):
        target.do("gateway", ChangeGateway(GATE, target.gateway()))
    assert target.seen().components == ()


def test_no_second_gateway_is_started_beside_one_that_runs(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    before = target.seen()
    with pytest.raises(ActionFailed, match=f"{GATE} runs already"):
        target.do("gateway", StartGateway("gateway-bbbbbb", target.gateway(max_pending=7)))
    assert target.seen() == before


def test_looking_changes_nothing(target: Target) -> None:
    serve(target)
    target.do(SLOT, Join("chat", A, 100))
    assert target.seen() == target.seen()
    assert target.driver.inventory() == target.driver.inventory()


def test_a_later_driver_sees_and_ends_the_same(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    serve(target)
    target.do(SLOT, Join("chat", A, 100))
    assert target.another().observe() == target.seen()


def test_the_output_of_an_instance_can_be_read(target: Target) -> None:
    serve(target)
    lines = list(target.driver.logs(A, tail=5, follow=False))
    assert 0 < len(lines) <= 5
    with pytest.raises(Refused):
        target.driver.logs("chat-replica-9-zzzzzz", tail=5, follow=False)


def test_somebody_elses_engine_is_neither_seen_nor_touched(target: Target) -> None:
    target.add_foreign()
    target.do("gateway", StartGateway(GATE, target.gateway()))
    serve(target)
    assert [i.id for i in target.seen().instances] == [A]
    target.do(SLOT, StopReplica(A, 10.0))
    target.do("gateway", StopGateway(GATE, 0.0))
    target.do("stack", RemoveStack())
    assert target.foreign_lives()


def test_a_stack_is_not_removed_while_it_runs(target: Target) -> None:
    start(target)
    with pytest.raises(ActionFailed, match=A):
        target.do("stack", RemoveStack())
    assert [i.id for i in target.seen().instances] == [A]


def test_nothing_is_left_of_a_removed_stack(target: Target) -> None:
    target.do("gateway", StartGateway(GATE, target.gateway()))
    serve(target)
    target.do(SLOT, Join("chat", A, 100))
    assert target.left()
    target.do(SLOT, Drain("chat", A, 5.0))
    target.do(SLOT, Leave("chat", A))
    target.do(SLOT, StopReplica(A, 10.0))
    target.do("gateway", StopGateway(GATE, 0.0))
    target.do("stack", RemoveStack())
    assert target.left() == []
