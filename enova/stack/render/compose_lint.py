"""What is wrong with a compose file of ours, before anybody runs it.

In: the document. Out: findings with a rule, the service and what to do, sorted; none for what the
renderer makes. It knows nothing of how the document was made, so it finds what the renderer, or a
person's edit, left open. Rules that an image cannot bear are listed with the reason (``BORNE``).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

Document = Mapping[str, object]

RULES: Mapping[str, str] = {
    "C01": "no privileges, no namespace of the host",
    "C02": "no capabilities",
    "C03": "no new privileges, the default filters of system calls",
    "C04": "a root file system that cannot be written",
    "C05": "a pinned user that is not root",
    "C06": "bounded memory, processes and processor time",
    "C07": "ports on loopback only, of the gateway and what people look at only",
    "C08": "no folder of the system, nothing of the host writable but the stack's own",
    "C09": "no secret in the file, nothing interpolated but secrets",
    "C10": "an image with a version",
    "C11": "a health check",
    "C12": "bounded logs",
    "C13": "a stop that reaches the program, a restart, an image pulled only when missing",
    "C14": "labels that say whose it is",
    "C15": "each GPU given once",
    "C16": "a fixed address of its own in the internal network",
}

BORNE: Mapping[tuple[str, str], str] = {
    ("monitoring/dcgm-exporter", "C02"): "profiling counters are for administrators",
    ("monitoring/dcgm-exporter", "C05"): "profiling counters are for administrators",
    ("monitoring/dcgm-exporter", "C11"): "its image has nothing that could ask",
    ("monitoring/node-exporter", "C08"): "free space is asked for where file systems are seen",
    ("monitoring/otel-collector", "C11"): "its image has no program but its own",
    ("monitoring/tempo", "C11"): "its image has no program but its own",
    ("reconciler", "C08"): "it starts and stops containers through the engine's socket",
}
"""By address and rule: what is let pass, and why."""

_LABELS = ("stack", "env", "kind", "instance", "address", "digest", "apply", "fields")
_KINDS = ("replica", "gateway", "monitor", "reconciler")
_ADDED = frozenset({"DAC_READ_SEARCH", "SYS_ADMIN"})
"""What may be borne; no image of ours needs another one."""
_SYSTEM = re.compile(r"^/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var/(run|lib))?(/|$)")
_CERTIFICATES = re.compile(r"^/(etc|usr/local/etc|var/lib)/[\w./-]+$")
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|PRIVATE_KEY)S?$")
_REFERENCE = re.compile(r"^\$\{[A-Za-z_]\w*:\?[^${}]*\}$")
_SECRET_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,})|-----BEGIN ")
_NUMERIC_USER = re.compile(r"^\d+:\d+$")


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is open. ``service`` is empty when it is about the whole file."""

    service: str
    rule: str
    message: str

    def line(self) -> str:
        """The finding on one line."""
        return f"{self.rule} {self.service or 'file'}: {self.message} (wanted: {RULES[self.rule]})"


def lint(document: Document, *, public: AbstractSet[str] = frozenset()) -> tuple[Finding, ...]:
    """All findings. ``public`` names services that may be published beyond loopback."""
    services = _map(document.get("services"))
    found = []
    for name, value in services.items():
        service = _map(value)
        address = str(_map(service.get("labels")).get("enova.address", ""))
        for rule, message in _of_service(service, public=name in public):
            # Only a rule's known breach is borne, not each.
            if (address, rule) in BORNE and _is_borne(address, rule, service):
                continue
            found.append(Finding(name, rule, message))
    found += [Finding(*finding) for finding in _of_file(document, services)]
    return tuple(sorted(set(found)))


def _of_service(service: Document, *, public: bool) -> Iterator[tuple[str, str]]:
    yield from _isolation(service)
    yield from _bounds(service)
    yield from _ports(service, public=public)
    yield from _mounts(service)
    yield from _texts(service)
    yield from _life(service)
    yield from _labels(service)


def _isolation(service: Document) -> Iterator[tuple[str, str]]:
    if service.get("privileged"):
        yield "C01", "privileged"
    for key in ("network_mode", "pid", "ipc", "uts", "userns_mode", "cgroup"):
        if key in service:
            yield "C01", f"{key}: {service[key]}"
    for key in ("devices", "device_cgroup_rules"):
        if service.get(key):
            yield "C01", f"{key} of the host"
    if service.get("cap_drop") != ["ALL"]:
        yield "C02", "cap_drop is not [ALL]"
    if service.get("cap_add"):
        yield "C02", f"cap_add: {', '.join(map(str, _list(service['cap_add'])))}"
    options = _list(service.get("security_opt"))
    if "no-new-privileges:true" not in options:
        yield "C03", "security_opt has no no-new-privileges:true"
    for option in options:
        if str(option).endswith(("unconfined", ":disable", "=disable")):
            yield "C03", f"security_opt: {option}"
    if service.get("read_only") is not True:
        yield "C04", "read_only is not true"
    user = str(service.get("user", ""))
    if not _NUMERIC_USER.match(user):
        yield "C05", f'user "{user}" is not uid:gid'
    elif user.startswith("0:"):
        yield "C05", "runs as root"


def _bounds(service: Document) -> Iterator[tuple[str, str]]:
    resources = _map(_map(service.get("deploy")).get("resources"))
    limits = _map(resources.get("limits"))
    for key in ("memory", "pids"):
        if not limits.get(key):
            yield "C06", f"no limit of {key}"
    # What feeds a GPU may take all processor time there is.
    if not (limits.get("cpus") or service.get("cpuset") or _devices(service)):
        yield "C06", "neither cpus nor cpuset"
    logging = _map(service.get("logging"))
    options = _map(logging.get("options"))
    if logging.get("driver") != "json-file" or not {"max-size", "max-file"} <= options.keys():
        yield "C12", "logging without max-size and max-file"


def _ports(service: Document, *, public: bool) -> Iterator[tuple[str, str]]:
    kind = _map(service.get("labels")).get("enova.kind")
    for port in _list(service.get("ports")):
        if kind not in ("gateway", "monitor"):
            yield "C07", f"publishes {port}"
        host = str(port).rpartition(":")[0].rpartition(":")[0].strip("[]")
        if not public and not _is_loopback(host):
            yield "C07", f"{port} is published beyond loopback"


def _mounts(service: Document) -> Iterator[tuple[str, str]]:
    for mount in _list(service.get("volumes")):
        if not isinstance(mount, Mapping):
            yield "C08", f"{mount}: written short, which makes a missing folder as root's"
            continue
        source = str(mount.get("source", ""))
        if mount.get("type") == "volume":
            continue
        if source.endswith(".sock") or (_SYSTEM.match(source) and not _is_certificate(mount)):
            yield "C08", f"mounts {source}"
        if ".." in source.split("/"):
            yield "C08", f"mounts {source}, outside of the stack's folder"
        if mount.get("read_only") is not True and not source.startswith("./"):
            yield "C08", f"can write {source}"
        if _map(mount.get("bind")).get("create_host_path") is not False:
            yield "C08", f"a missing {source} would be made as root's"


def _texts(service: Document) -> Iterator[tuple[str, str]]:
    for name, value in _map(service.get("environment")).items():
        if _SECRET_NAME.search(name.upper()) and value and not _REFERENCE.match(str(value)):
            yield "C09", f"{name} is written into the file: refer to it as ${{{name}:?}}"
    for where, text in _strings(service):
        if _SECRET_VALUE.search(text):
            yield "C09", f"{where} looks like a secret"
        bare = text.replace("$$", "")
        if "$" in bare and not (where.startswith("environment.") and _REFERENCE.match(text)):
            yield "C09", f"{where} is interpolated: write $$ for a dollar sign"


def _life(service: Document) -> Iterator[tuple[str, str]]:
    image = str(service.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if "@sha256:" not in image and (not tag or tag == "latest"):
        yield "C10", f'image "{image}" may be another one tomorrow'
    check = _map(service.get("healthcheck"))
    if not check.get("test") or check.get("disable"):
        yield "C11", "no healthcheck"
    if service.get("init") is not True:
        yield "C13", "init is not true: a program without handlers ignores the stop"
    if service.get("restart") != "unless-stopped":
        yield "C13", "restart is not unless-stopped"
    if service.get("pull_policy") != "missing":
        yield "C13", "pull_policy is not missing"
    if "stop_grace_period" not in service:
        yield "C13", "no stop_grace_period"


def _labels(service: Document) -> Iterator[tuple[str, str]]:
    labels = _map(service.get("labels"))
    missing = [name for name in _LABELS if f"enova.{name}" not in labels]
    if missing:
        yield "C14", f"no label {', '.join(f'enova.{name}' for name in missing)}"
    elif labels["enova.kind"] not in _KINDS:
        yield "C14", f"enova.kind: {labels['enova.kind']}"


def _of_file(document: Document, services: Document) -> Iterator[tuple[str, str, str]]:
    holders: Counter[str] = Counter()
    addresses: Counter[str] = Counter()
    networks = _map(document.get("networks"))
    inside = _map(networks.get("inside"))
    if inside.get("internal") is not True:
        yield "", "C16", "the network inside is not internal"
    subnet = _subnet(inside)
    if subnet is None:
        yield "", "C16", "the network inside has no subnet of its own"
    for name, value in services.items():
        service = _map(value)
        monitors = _map(service.get("labels")).get("enova.kind") in ("monitor", "reconciler")
        for device in _devices(service):
            ids = _list(device.get("device_ids"))
            holders.update(map(str, ids))
            if not ids and not monitors:
                yield name, "C15", "takes GPUs without naming them"
        ip = str(_map(_map(service.get("networks")).get("inside")).get("ipv4_address", ""))
        addresses[ip] += 1
        if not _is_in(ip, subnet):
            yield name, "C16", f'address "{ip}" is not one of {subnet}'
        elif addresses[ip] > 1:
            yield name, "C16", f"{ip} is another service's too"
    for device_id, count in sorted(holders.items()):
        if count > 1:
            yield "", "C15", f"GPU {device_id} is given {count} times"


def _is_borne(address: str, rule: str, service: Document) -> bool:
    """Whether the breach is the one that was meant, not any."""
    if rule == "C02":
        added = set(map(str, _list(service.get("cap_add"))))
        return service.get("cap_drop") == ["ALL"] and added <= _ADDED
    if rule == "C08":
        mounts = [m for m in _list(service.get("volumes")) if isinstance(m, Mapping)]
        writable = [str(m.get("source")) for m in mounts if m.get("read_only") is not True]
        if address == "reconciler":
            return all(not _SYSTEM.match(s) or s.endswith("/docker.sock") for s in writable)
        return not writable
    return True


def _is_certificate(mount: Mapping[str, object]) -> bool:
    """A folder below /etc that is mounted where it is, to be read: the gateway's certificate."""
    source = str(mount.get("source", ""))
    same = mount.get("target") == source
    return same and mount.get("read_only") is True and bool(_CERTIFICATES.match(source))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_in(ip: str, subnet: ipaddress.IPv4Network | None) -> bool:
    try:
        return subnet is not None and ipaddress.IPv4Address(ip) in subnet
    except ValueError:
        return False


def _subnet(network: Document) -> ipaddress.IPv4Network | None:
    for config in _list(_map(network.get("ipam")).get("config")):
        try:
            return ipaddress.IPv4Network(str(_map(config).get("subnet", "")))
        except ValueError:
            return None
    return None


def _devices(service: Document) -> list[Document]:
    resources = _map(_map(service.get("deploy")).get("resources"))
    return [_map(d) for d in _list(_map(resources.get("reservations")).get("devices"))]


def _strings(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, at)


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
