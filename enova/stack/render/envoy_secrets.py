"""The two files Envoy reads beside its bootstrap because they change or must not be reviewed.

In: API keys as values, or the paths of a certificate. Out: documents for Envoy's discovery by
file. ``effects.gateway`` writes them with mode 0600; replacing a file applies it at once, so
keys are added and revoked, and certificates renewed, without touching the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping

from enova.base.digest import digest
from enova.base.secret import Secret
from enova.stack.render.envoy_settings import Tls

Document = dict[str, object]

API_KEYS = "enova.api_keys"
"""The name under which the bootstrap refers to the key filter."""

API_KEY_TYPE = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
CLIENT_METADATA = ("envoy.filters.http.rbac", "shadow_effective_policy_id")
"""Where the name of the client whose key matched is found, for rate limits and the log."""

CERTIFICATE = "gateway"

KEYS_FILE = "keys.json"
CERTIFICATE_FILE = "certificate.json"


def render_api_keys(keys: Mapping[str, Secret]) -> Document:
    """The key file: client name to key. A request shows its key as ``Authorization: Bearer``.

    It has no version: one made of its content would let keys be guessed by whoever sees it.
    With no key at all every request is refused. Raises ValueError when two clients share a key.
    """
    values = [secret.reveal() for secret in keys.values()]
    if any(not value.strip() for value in values):
        raise ValueError("an API key is empty")
    if len(set(values)) != len(values):
        raise ValueError("two clients have the same API key")
    rules: Document = {
        "action": "ALLOW",
        "policies": {client: _policy(keys[client].reveal()) for client in sorted(keys)},
    }
    return {
        "resources": [
            {
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": API_KEYS,
                # Envoy's own key filter is marked as unfinished and outside its threat model, so
                # the access rules it has always had do this. Their shadow names the client.
                "typed_config": {"@type": API_KEY_TYPE, "rules": rules, "shadow_rules": rules},
            }
        ]
    }


def _policy(key: str) -> Document:
    return {
        "permissions": [{"any": True}],
        "principals": [
            {"header": {"name": "authorization", "string_match": {"exact": f"{scheme} {key}"}}}
            for scheme in ("Bearer", "bearer")
        ],
    }


def render_certificate(tls: Tls) -> Document:
    """The certificate file: names the two PEM files and watches the directory of the first."""
    directory = tls.certificate.rpartition("/")[0] or "/"
    resource: Document = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": CERTIFICATE,
        "tls_certificate": {
            "certificate_chain": {"filename": tls.certificate},
            "private_key": {"filename": tls.key},
            "watched_directory": {"path": directory},
        },
    }
    return {"version_info": digest(resource), "resources": [resource]}
