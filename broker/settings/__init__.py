"""The fleet's configuration: ``laneway.toml`` under the environment, checked as a whole before anything starts.

Order, strongest first: environment LANEWAY_SECTION__KEY (a dash in a name is written as an underscore, a row of a list
is named by its place from 0 on), the file named by LANEWAY_CONFIG or ./laneway.toml, the defaults. This is the one
package that reads the environment.

- Tables, a module a subject: ``fleet`` (and the ledger's bucket), ``lanes``, ``types`` (and categories), ``gates``,
  ``tools``, ``budgets``, ``prices``, ``alerts``; ``values`` (what stands in them).
- All of them: ``environment`` (over the file), ``names`` (that point at other tables), ``paths`` (made absolute),
  ``explain`` (what is wrong).
- ``secrets``: what is named there and lies elsewhere.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from broker.errors import ConfigError
from broker.settings import names, paths
from broker.settings.alerts import Alerts
from broker.settings.budgets import BudgetRow, TaskBudget
from broker.settings.environment import EnvironmentOverFile
from broker.settings.explain import explain
from broker.settings.fleet import S3, Fleet
from broker.settings.lanes import DEFAULT_LANES, Lane
from broker.settings.prices import Human, Prices
from broker.settings.tools import ToolSettings
from broker.settings.types import DEFAULT_TYPES, Category, CategoryName, TaskType
from broker.settings.values import CurrencyCode, Day, Rate, Table

#: The day, the night after it, and one more that may be missed.
LEAST_WITH_MACHINES_S = 3 * 24 * 3600


class Settings(BaseSettings):
    """The whole configuration, frozen. Build it with ``load()``."""

    model_config = SettingsConfigDict(
        env_prefix="LANEWAY_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    redis_url: str | None = None
    fleet: Fleet = Fleet()
    lanes: dict[str, Lane] = Field(default_factory=lambda: _validated(Lane, DEFAULT_LANES))
    types: dict[str, TaskType] = Field(default_factory=lambda: _validated(TaskType, DEFAULT_TYPES))
    tools: dict[str, ToolSettings] = Field(default_factory=dict)
    categories: dict[CategoryName, Category] = Field(default_factory=dict)
    budgets: tuple[BudgetRow, ...] = ()
    human: Human = Human()
    alerts: Alerts = Alerts()
    s3: S3 = S3()
    prices: Prices = Prices()
    rates: dict[CurrencyCode, dict[Day, Rate]] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (EnvironmentOverFile(settings_cls, init_settings()),)

    @model_validator(mode="after")
    def _names_meet(self) -> Settings:
        """What each table cannot see for itself: names that point at other tables."""
        if problems := [
            *names.of_tables(self.lanes, self.types, self.tools),
            *names.of_types(self.types, self.fleet.default_type, self.lanes, self.tools),
            *names.of_tools(self.tools, self.types),
            *names.of_budgets(self.budgets, self.fleet, self.human, self.lanes),
            *_too_short(self.fleet, self.lanes),
        ]:
            raise ValueError("\n".join(problems))
        return self


def _too_short(fleet: Fleet, lanes: Mapping[str, Lane]) -> Iterator[str]:
    """A machine's day is shared out among its calls when it is over, which their tasks' records have to see."""
    owned = [name for name, lane in lanes.items() if lane.hardware is not None]
    if owned and fleet.idempotency_ttl_s < LEAST_WITH_MACHINES_S:
        yield (
            f"fleet.idempotency_ttl_s: {fleet.idempotency_ttl_s} is too short for lanes.{owned[0]}.hardware: a night"
            f" shares the machine's day out among records that are still there; make it {LEAST_WITH_MACHINES_S} or more"
        )


def _validated(model: type[Table], rows: Mapping[str, object]) -> Any:
    return {name: model.model_validate(row) for name, row in rows.items()}


def parse(text: str, *, source: str = "laneway.toml", folder: Path | None = None) -> Settings:
    """Settings of a TOML text under the environment. Relative paths are taken from ``folder``.

    Raises ConfigError that names each wrong key's path and the mend.
    """
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}", mend="mend the line that it names") from error
    try:
        settings = Settings(**tables)
    except ValidationError as error:
        raise ConfigError(
            explain(error, source, Settings.model_fields),
            mend=f"mend these keys in {source} or in the environment",
        ) from None
    return _discounted(_small_scale(_by_category(_anchored(settings, folder or Path.cwd()))))


def _anchored(settings: Settings, folder: Path) -> Settings:
    """The same settings with relative paths made absolute."""
    update = {
        "fleet": paths.of_fleet(settings.fleet, folder),
        "types": {name: paths.of_type(row, folder) for name, row in settings.types.items()},
        "lanes": {name: paths.of_lane(row, folder) for name, row in settings.lanes.items()},
        "tools": {name: paths.of_tool(row, folder) for name, row in settings.tools.items()},
    }
    return settings.model_copy(update=update)


def _by_category(settings: Settings) -> Settings:
    """Each type with its category's limits under its own."""
    types = {
        name: row.model_copy(update={"budget": row.budget.over(settings.categories[row.category].budget)})
        if row.category in settings.categories
        else row
        for name, row in settings.types.items()
    }
    return settings.model_copy(update={"types": types})


def _discounted(settings: Settings) -> Settings:
    """Each lane with the fleet's discounts before its own, which hold over them."""
    if not settings.prices.discounts:
        return settings
    lanes = {
        name: row.model_copy(update={"discounts": (*settings.prices.discounts, *row.discounts)})
        for name, row in settings.lanes.items()
    }
    return settings.model_copy(update={"lanes": lanes})


def _small_scale(settings: Settings) -> Settings:
    """The one line of ``fleet.small_scale`` as the limits that it stands for."""
    small = settings.fleet.small_scale
    if small is None:
        return settings
    month = BudgetRow(scope="fleet", period="month", usd=small.month_usd)
    types = {
        name: row.model_copy(update={"budget": row.budget.over(TaskBudget(hard_usd=small.task_usd))})
        for name, row in settings.types.items()
    }
    return settings.model_copy(update={"types": types, "budgets": (*settings.budgets, month)})


@cache
def load() -> Settings:
    """The settings of this process, read once. Raises ConfigError."""
    named = os.environ.get("LANEWAY_CONFIG")
    path = Path(named) if named else Path("laneway.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError(
                f"LANEWAY_CONFIG names {named!r}, which is not there", mend="mend the path"
            ) from None
        return parse("", source="the built-in configuration")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", mend="make it a readable UTF-8 file") from error
    return parse(text, source=str(path), folder=path.resolve().parent)
