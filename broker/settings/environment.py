"""The environment over the file's tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from broker.errors import ConfigError
from broker.settings.lanes import DEFAULT_LANES
from broker.settings.types import DEFAULT_TYPES


class EnvironmentOverFile(PydanticBaseSettingsSource):
    """The file's tables with the environment's scalars laid over them, names matched with ``-`` and ``_`` alike."""

    def __init__(self, settings_cls: type[BaseSettings], file: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self.file = file

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.file.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        environment = {**_strange_sections(self.settings_cls), **EnvSettingsSource(self.settings_cls)()}
        base = dict(self.file)
        if "lanes" in environment:
            base.setdefault("lanes", DEFAULT_LANES)
        if "types" in environment:
            base.setdefault("types", DEFAULT_TYPES)
        return _overlay(base, environment, "LANEWAY_")


def _strange_sections(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    """Sections that the environment names and nobody knows, so that they are refused as those of the file are."""
    names = (
        name.lower().removeprefix("laneway_") for name in os.environ if name.lower().startswith("laneway_")
    )
    sections = {name.partition("__")[0] for name in names if "__" in name}
    return {section: {} for section in sections - settings_cls.model_fields.keys()}


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = {name.replace("-", "_").lower(): name for name in base}
    merged = dict(base)
    for key, value in over.items():
        name = names.get(key.replace("-", "_").lower(), key)
        merged[name] = _over(merged.get(name), value, f"{prefix}{key.upper()}")
    return merged


def _over(below: object, value: object, path: str) -> object:
    """Of a list, a value under a row's place changes that row, and one under the next place adds a row.

    What the file does not have is a list where the environment names places.
    """
    if below is None and isinstance(value, Mapping):
        below = [] if value and all(key.isdecimal() for key in value) else {}
    if isinstance(below, Mapping) and isinstance(value, Mapping):
        return _overlay(below, value, f"{path}__")
    if isinstance(below, list) and isinstance(value, Mapping):
        rows = _overlay({str(at): row for at, row in enumerate(below)}, value, f"{path}__")
        places = [str(at) for at in range(len(rows))]
        if strange := sorted(rows.keys() - places):
            raise ConfigError(
                f"{path}__{strange[0]} names no row: the file has {len(below)}, counted from 0",
                mend=f"write the row into the file, or name the next place, {path}__{len(below)}",
            )
        return [rows[place] for place in places]
    return value
