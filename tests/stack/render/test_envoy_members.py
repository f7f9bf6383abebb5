"""The membership file: what is written can be read again, and says what Envoy must do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enova.stack.render.envoy_members import Member, parse_members, render_members

ONE = Member("chat-replica-0.g1", "127.0.0.1", 8001)
TWO = Member("chat-replica-1.g1", "127.0.0.1", 8002, weight=300)


def assignment(*members: Member) -> dict[str, Any]:
    (found,) = json.loads(json.dumps(render_members("chat", members)))["resources"]
    assert isinstance(found, dict)
    return found


def states(*members: Member) -> dict[str, str]:
    return {
        endpoint["endpoint"]["hostname"]: endpoint["health_status"]
        for group in assignment(*members)["endpoints"]
        for endpoint in group["lb_endpoints"]
    }


@given(
    st.lists(
        st.builds(
            Member,
            instance_id=st.from_regex(r"[a-z]{1,9}-replica-[0-9]{1,2}\.g[0-9]", fullmatch=True),
            host=st.sampled_from(["127.0.0.1", "10.0.0.7", "::1"]),
            port=st.integers(1, 65535),
            weight=st.integers(0, 1000),
            state=st.sampled_from(["serving", "draining"]),
            priority=st.integers(0, 7),
        ),
        unique_by=(lambda m: m.instance_id, lambda m: (m.host, m.port)),
        max_size=6,
    )
)
def test_what_is_written_is_read_again(members: list[Member]) -> None:
    document = render_members("chat", members)
    assert document == render_members("chat", reversed(members))
    found = parse_members(json.loads(json.dumps(document)))
    # A member of weight 0 drains whatever its state was called.
    assert [(m.instance_id, m.weight, m.serves, m.priority) for m in found] == [
        (m.instance_id, m.weight, m.serves, m.priority) for m in sorted(members)
    ]
    priorities = [group["priority"] for group in assignment(*members)["endpoints"]]
    assert priorities == list(range(len(priorities)))


def test_draining_and_weight_0_take_no_new_requests() -> None:
    draining = Member("chat-replica-2.g1", "127.0.0.1", 8003, state="draining")
    weightless = Member("chat-replica-3.g1", "127.0.0.1", 8004, weight=0)
    assert states(ONE, draining, weightless) == {
        ONE.instance_id: "HEALTHY",
        draining.instance_id: "DRAINING",
        weightless.instance_id: "DRAINING",
    }
    assert "drop_overloads" not in assignment(ONE, draining)["policy"]


def test_when_nobody_serves_new_requests_are_refused() -> None:
    draining = Member("chat-replica-2.g1", "127.0.0.1", 8003, state="draining")
    (drop,) = assignment(draining)["policy"]["drop_overloads"]
    assert drop["drop_percentage"] == {"numerator": 100, "denominator": "HUNDRED"}
    assert "drop_overloads" not in assignment()["policy"]


def test_the_version_follows_the_content() -> None:
    def version(*members: Member) -> object:
        return render_members("chat", members)["version_info"]

    assert version(ONE, TWO) == version(TWO, ONE)
    assert version(ONE) != version(TWO) != version(ONE, TWO)


@pytest.mark.parametrize(
    "twin",
    [Member(ONE.instance_id, "127.0.0.1", 9), Member("other.g1", ONE.host, ONE.port)],
)
def test_a_member_is_listed_once(twin: Member) -> None:
    with pytest.raises(ValueError, match="listed twice"):
        render_members("chat", [ONE, twin])


@pytest.mark.parametrize("field", [{"weight": -1}, {"weight": 1001}, {"priority": 8}])
def test_numbers_out_of_range_are_refused(field: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not in"):
        Member("a.g1", "127.0.0.1", 1, **field)  # type: ignore[arg-type]  # a keyword by name


@pytest.mark.parametrize("document", [{}, {"resources": []}, {"resources": [{"x": 1}]}, {"a": 2}])
def test_a_foreign_document_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"membership|unpack"):
        parse_members(document)
