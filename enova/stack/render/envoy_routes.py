"""Which request goes to which service, and what the gateway answers by itself.

In: settings. Out: Envoy's route table. ``/<service>/v1/...`` names the service; on ``/v1/...``
the script has put the body's ``model`` into a header, and Envoy matches that header.
"""

from __future__ import annotations

import json

from enova.stack.render.envoy_clusters import NOWHERE, seconds
from enova.stack.render.envoy_errors import MODEL_HEADER, MODEL_NAMED, set_header
from enova.stack.render.envoy_secrets import API_KEYS
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings

Document = dict[str, object]

PREFIX_HEADER = "x-enova-prefix"


_ADMINISTRATION = "^(/[a-z0-9-]+)?/v1/(un)?load_lora_adapter/?$"
"""vLLM's run-time adapter loading opens files on the engine's host: not for clients."""


def route_table(settings: GatewaySettings) -> Document:
    """The route configuration of the client listener."""
    ordered = sorted(settings.services, key=lambda service: service.name)
    listing = _model_list(ordered)
    routes: list[Document] = [
        _open_route("gateway_health", {"path": "/health"}, 200, {"status": "ok"}),
        _answer("administration", {"safe_regex": {"regex": _ADMINISTRATION}}, 404, None),
        *_model_routes(ordered, listing),
        *(_service_route(service) for service in ordered),
        *(_by_model(service, model) for service in ordered for model in sorted(service.models)),
        _answer("unknown_model", {"prefix": "/v1/", "headers": [MODEL_NAMED]}, 404, None),
        _before_the_script(),
        _answer("unknown", {"prefix": "/"}, 404, None),
    ]
    bodies = [len(json.dumps(listing).encode())]
    return {
        "name": settings.stack,
        "max_direct_response_body_size_bytes": max(4096, 2 * max(bodies)),
        "virtual_hosts": [
            {
                "name": settings.stack,
                "domains": ["*"],
                "request_body_buffer_limit": settings.max_body_bytes,
                "request_headers_to_remove": [MODEL_HEADER],
                "routes": routes,
            }
        ],
    }


def _before_the_script() -> Document:
    """What a request matches until the script has read its body.

    It must be a route to somewhere, because the limit on bodies does not hold for the gateway's
    own answers; the script answers or sets the header, so nobody gets to that empty cluster.
    """
    return {
        "name": "unread",
        "match": {
            "prefix": "/v1/",
            "headers": [
                {"name": ":method", "string_match": {"safe_regex": {"regex": "POST|PUT|PATCH"}}}
            ],
        },
        "route": {"cluster": NOWHERE},
    }


def _service_route(service: GatewayService) -> Document:
    return {
        "name": f"{service.name}/by-service",
        "match": {"prefix": f"/{service.name}/v1/"},
        "route": {**_action(service), "prefix_rewrite": "/v1/"},
    }


def _by_model(service: GatewayService, model: str) -> Document:
    return {
        "name": f"{service.name}/by-model",
        "match": {
            "prefix": "/v1/",
            "headers": [{"name": MODEL_HEADER, "string_match": {"exact": model}}],
        },
        "route": _action(service),
    }


def _action(service: GatewayService) -> Document:
    action: Document = {
        "cluster": service.name,
        # No limit on the whole: a stream may last as long as it says something.
        "timeout": "0s",
        "idle_timeout": seconds(service.idle_timeout_s),
        "retry_policy": {
            # All of these end before the first byte of an answer has reached the client.
            "retry_on": "connect-failure,refused-stream,reset-before-request,reset,"
            "retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": service.retries,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.250s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host."
                        "previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            # How often to choose again until it is a replica not tried yet. A replica that has
            # just died looks idle and is chosen most of the time: eight times is not enough.
            "host_selection_retry_max_attempts": 1024,
        },
    }
    if service.routing == "prefix":
        action["hash_policy"] = [{"header": {"header_name": PREFIX_HEADER}}]
    return action


def _model_list(services: list[GatewayService]) -> Document:
    return {
        "object": "list",
        "data": [_model_entry(service, m) for service in services for m in sorted(service.models)],
    }


def _model_entry(service: GatewayService, model: str) -> Document:
    return {"id": model, "object": "model", "created": 0, "owned_by": service.name}


def _model_routes(services: list[GatewayService], listing: Document) -> list[Document]:
    """The models of the whole stack, answered here: each replica only knows its own."""
    get: Document = {"headers": [{"name": ":method", "string_match": {"exact": "GET"}}]}
    routes = [_answer("models", {"path": "/v1/models", **get}, 200, listing)]
    for service in services:
        for model in sorted(service.models):
            entry = _model_entry(service, model)
            routes.append(_answer("models", {"path": f"/v1/models/{model}", **get}, 200, entry))
    return routes


def _answer(name: str, match: Document, status: int, body: Document | None) -> Document:
    """A route the gateway answers itself; without a body the error table writes one."""
    response: Document = {"status": status}
    route: Document = {"name": name, "match": match, "direct_response": response}
    if body is not None:
        response["body"] = {"inline_string": json.dumps(body)}
        route["response_headers_to_add"] = [set_header("content-type", "application/json")]
    return route


def _open_route(name: str, match: Document, status: int, body: Document) -> Document:
    """An answer that needs no API key, whether or not keys are asked for just now."""
    route = _answer(name, match, status, body)
    route["typed_per_filter_config"] = {
        API_KEYS: {
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
            "disabled": True,
        }
    }
    return route
