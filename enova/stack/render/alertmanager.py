"""Alertmanager's configuration as data, and its command.

In: where alerts are sent, paths. Out: a document the caller dumps as JSON (which is YAML too).
Alerts of one thing come together; a page comes at once, a ticket may wait.
"""

from __future__ import annotations

Document = dict[str, object]

RECEIVER = "enova"


def config(*, webhook: str | None) -> Document:
    """The document of ``alertmanager.yml``. ``webhook``: the URL that is told; None: nobody is.

    While the gateway is down, that its services miss their goals is nothing new.
    """
    receiver: Document = {"name": RECEIVER}
    if webhook is not None:
        receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
    return {
        "route": {
            "receiver": RECEIVER,
            "group_by": ["stack", "alertname", "service"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "12h",
            "routes": [
                {
                    "receiver": RECEIVER,
                    "matchers": ['severity="page"'],
                    "group_wait": "0s",
                    "group_interval": "1m",
                    "repeat_interval": "4h",
                }
            ],
        },
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="GatewayDown"'],
                "target_matchers": ['alertname=~"GoalBurns.*|GoalUnmeasured"'],
                "equal": ["stack"],
            }
        ],
        "receivers": [receiver],
    }


def command(program: str, *, config_path: str, data_dir: str, listen: str) -> tuple[str, ...]:
    """The command of one Alertmanager that is no member of a cluster."""
    return (
        program,
        f"--config.file={config_path}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={listen}",
        "--cluster.listen-address=",
        "--log.level=warn",
    )
