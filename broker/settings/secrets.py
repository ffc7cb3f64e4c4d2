"""What the configuration names and does not hold: keys and tokens, in the environment or in a file."""

from __future__ import annotations

import os
from collections.abc import Iterable

from broker.settings.alerts import Alerts
from broker.settings.lanes import Lane


def secret(lane: Lane) -> str | None:
    """The lane's API key from its environment variable or file, None where it has neither or it is empty."""
    if lane.api_key_env:
        return os.environ.get(lane.api_key_env) or None
    if lane.api_key_file:
        try:
            return lane.api_key_file.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None
    return None


def alert_token(alerts: Alerts) -> str | None:
    """What the webhook is to be told besides, from its environment variable; None where there is none."""
    return os.environ.get(alerts.webhook_token_env, "").strip() or None if alerts.webhook_token_env else None


def from_environment(names: Iterable[str]) -> dict[str, str]:
    """Those of the named environment variables that are set, for what a tool starts or calls."""
    return {name: os.environ[name] for name in names if name in os.environ}
