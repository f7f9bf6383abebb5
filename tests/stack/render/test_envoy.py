"""The gateway's configuration as data: what is rendered, what is refused, what never is in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from enova.base.secret import Secret, SecretRef
from enova.stack.render.envoy import (
    BOOTSTRAP,
    CLUSTERS,
    LISTENERS,
    ROUTES,
    render_bootstrap,
    render_files,
)
from enova.stack.render.envoy_secrets import render_api_keys, render_certificate
from enova.stack.render.envoy_settings import (
    GatewayService,
    GatewaySettings,
    RateLimit,
    Routing,
    Tls,
)
from enova.stack.render.gateway_settings import GatewayPlaces, settings_of
from enova.stack.resources import GatewayResource, KeyReference, Route

CHAT = GatewayService("chat", ("tiny", "org/tiny"))
CODE = GatewayService("code", ("coder",), routing="prefix")
SETTINGS = GatewaySettings(
    stack="demo",
    services=(CODE, CHAT),
    members_dir="/s/members",
    access_log_path="/s/access.log",
    config_dir="/s/config",
    admin_path="/s/admin.sock",
)
LUA = "-- the script\n"


def everything() -> GatewaySettings:
    return replace(
        SETTINGS,
        metrics_port=9200,
        keys_path="/s/keys/keys.json",
        rate_limit=RateLimit(100, 200),
        key_rates=(("bob", RateLimit(2.5, 5)), ("alice", RateLimit(50, 50))),
        tls=Tls("/t/cert.pem", "/t/key.pem"),
        tls_path="/s/tls.json",
        otlp_endpoint=("127.0.0.1", 4317),
        labels=(("enova_stack", "demo"),),
    )


def clusters(document: dict[str, Any]) -> dict[str, Any]:
    return {c["name"]: c for c in document["static_resources"]["clusters"]}


def test_the_same_settings_give_the_same_bytes() -> None:
    other_order = replace(SETTINGS, services=(CHAT, CODE))
    assert json.dumps(render_bootstrap(SETTINGS, LUA)) == json.dumps(
        render_bootstrap(other_order, LUA)
    )
    assert render_files(SETTINGS, LUA) == render_files(other_order, LUA)


def test_each_service_has_its_cluster_and_its_watched_members() -> None:
    found = clusters(render_bootstrap(SETTINGS, LUA))
    assert list(found) == ["chat", "code", "enova_nowhere"]
    source = found["chat"]["eds_cluster_config"]["eds_config"]["path_config_source"]
    assert source == {"path": "/s/members/chat.json", "watched_directory": {"path": "/s/members"}}


@pytest.mark.parametrize(
    ("routing", "policy"),
    [("least-request", "least_request"), ("prefix", "ring_hash")],
)
def test_routing_chooses_the_balance(routing: Routing, policy: str) -> None:
    settings = replace(SETTINGS, services=(replace(CHAT, routing=routing),))
    (choice,) = clusters(render_bootstrap(settings, LUA))["chat"]["load_balancing_policy"][
        "policies"
    ]
    assert choice["typed_extension_config"]["name"].endswith(policy)
    text = json.dumps(render_bootstrap(settings, LUA))
    assert ("local AFFINITY, HEAD_BYTES = true" in text) is (routing == "prefix")
    assert ("x-enova-prefix" in text) is (routing == "prefix")


def test_a_change_touches_only_its_files() -> None:
    before = render_files(SETTINGS, LUA)

    def changed(settings: GatewaySettings, lua: str = LUA) -> set[str]:
        after = render_files(settings, lua)
        return {name for name in after if after[name] != before[name]}

    assert changed(replace(SETTINGS, services=(CHAT,))) == {CLUSTERS, LISTENERS, ROUTES}
    plain = replace(CODE, routing="least-request")
    assert changed(replace(SETTINGS, services=(CHAT, CODE, GatewayService("x", ("y",))))) == {
        CLUSTERS,
        ROUTES,
    }
    assert changed(replace(SETTINGS, services=(CHAT, plain))) == {CLUSTERS, LISTENERS, ROUTES}
    assert changed(replace(SETTINGS, rate_limit=RateLimit(1, 1))) == {LISTENERS}
    assert changed(replace(SETTINGS, port=9300)) == {LISTENERS}
    assert changed(replace(SETTINGS, max_body_bytes=1)) == {ROUTES}
    assert changed(SETTINGS, "-- other") == {LISTENERS}
    assert changed(replace(SETTINGS, admin_path="/s/b.sock")) == {BOOTSTRAP}
    assert changed(replace(SETTINGS, max_heap_bytes=1)) == {BOOTSTRAP}


def test_settings_of_a_listener_change_its_filter_chain_alone() -> None:
    """Anything else in it would have Envoy replace the listener."""

    def rest(settings: GatewaySettings) -> list[dict[str, object]]:
        listeners: Any = render_files(settings, LUA)[LISTENERS]["resources"]
        return [{k: v for k, v in one.items() if k != "filter_chains"} for one in listeners]

    assert rest(everything()) == rest(replace(SETTINGS, metrics_port=9200))
    assert rest(replace(SETTINGS, port=9300)) != rest(SETTINGS)


def test_an_address_that_a_wider_one_covers_may_keep_its_listener() -> None:
    wide = replace(SETTINGS, listen_host="0.0.0.0", kept_hosts=("127.0.0.2", "127.0.0.1"))
    listeners: Any = render_files(wide, LUA)[LISTENERS]["resources"]
    assert [one["name"] for one in listeners] == [
        "gateway-0.0.0.0-9199",
        "gateway-127.0.0.1-9199",
        "gateway-127.0.0.2-9199",
    ]
    assert len({json.dumps(one["filter_chains"]) for one in listeners}) == 1


def test_each_key_has_the_rate_of_its_own() -> None:
    resource = GatewayResource(
        "127.0.0.1",
        9199,
        "least-request",
        (Route("chat", "tiny"),),
        keys=tuple(
            KeyReference(name, SecretRef(env="X"), rate)
            for name, rate in (("alice", 0.5), ("bob", None), ("carol", 50.0))
        ),
    )
    places = GatewayPlaces("/s", "/s/m", "/s/log", "/s/keys.json", "/s/cert.json", None, "/s/a")
    settings = settings_of(resource, stack="demo", places=places)
    assert settings.key_rates == (("alice", RateLimit(0.5, 1)), ("carol", RateLimit(50.0, 50)))
    assert settings.rate_limit is None


def test_the_parts_that_are_off_leave_no_trace() -> None:
    plain = json.dumps(render_bootstrap(SETTINGS, LUA))
    full = json.dumps(render_bootstrap(everything(), LUA))
    for word in ("http.rbac.v3", "local_ratelimit", "opentelemetry", "tls", "stats/prometheus"):
        assert word not in plain
        assert word in full


def test_model_names_are_matched_as_they_are() -> None:
    odd = ('a"b', "a\\b", "${X}", "{{ x }}", "%START_TIME%", "né", ".*")
    settings = replace(SETTINGS, services=(GatewayService("chat", odd),))
    text = json.dumps(render_bootstrap(settings, LUA))
    routes = json.loads(text)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
        "typed_config"
    ]["route_config"]["virtual_hosts"][0]["routes"]
    matched = [
        route["match"]["headers"][0]["string_match"]["exact"]
        for route in routes
        if route["name"] == "chat/by-model"
    ]
    assert sorted(matched) == sorted(odd)


def test_long_streams_have_no_time_limit() -> None:
    text = json.dumps(render_bootstrap(SETTINGS, LUA))
    assert '"timeout": "0s", "idle_timeout": "900s"' in text
    assert "max_stream_duration" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"admin_path": None}, "admin socket or an admin port"),
        ({"admin_port": 1}, "admin socket or an admin port"),
        ({"services": (CHAT, CHAT)}, "same name"),
        ({"services": (CHAT, replace(CODE, models=("tiny",)))}, "same model name: tiny"),
        ({"tls_path": "/x"}, "TLS"),
        ({"key_rates": (("bob", RateLimit(1, 1)),)}, "needs API keys"),
        ({"admin_path": None, "admin_port": 9, "keys_path": "/k"}, "need the admin socket"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SETTINGS, **change)


def test_services_that_cannot_be_reached_are_refused() -> None:
    for name in ("v1", "Chat", "a/b", "", "..", "a b"):
        with pytest.raises(ValueError, match="service"):
            GatewayService(name, ("m",))
    with pytest.raises(ValueError, match="serves no model"):
        GatewayService("chat", ())
    for per_second, burst in ((0, 1), (-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="positive rate"):
            RateLimit(per_second, burst)


def test_api_keys_are_only_in_their_own_file() -> None:
    document = render_api_keys({"bob": Secret("sk-b"), "alice": Secret("sk-a")})
    text = json.dumps(document)
    assert text.index("alice") < text.index("bob")
    assert "Bearer sk-a" in text
    for keys in ({"a": Secret("x"), "b": Secret("x")}, {"a": Secret(" ")}):
        with pytest.raises(ValueError, match="API key"):
            render_api_keys(keys)


def test_the_certificate_is_named_not_contained() -> None:
    text = json.dumps(render_certificate(Tls("/t/cert.pem", "/k/key.pem")))
    assert '"watched_directory": {"path": "/t"}' in text
