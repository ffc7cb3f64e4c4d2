"""The table ``alerts``."""

from __future__ import annotations

from pydantic import field_validator

from broker.settings.values import Table, Usd, web_address


class Alerts(Table):
    """Who is told when a budget runs out.

    ``webhook`` gets a POST, ``command`` the same JSON on its standard input. ``webhook_token_env`` names the
    environment variable whose value goes along as a bearer token. ``kill_switch``: a scope whose budget is used up is
    switched off until a person switches it on again. ``task_p95_usd`` is what 95 of 100 tasks should stay under.
    """

    webhook: str | None = None
    webhook_token_env: str | None = None
    command: tuple[str, ...] = ()
    kill_switch: bool = False
    task_p95_usd: Usd | None = None

    @field_validator("webhook")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        return web_address(value, "webhook_token_env")
