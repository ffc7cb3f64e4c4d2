"""Relative paths made absolute, so that every process of a node means the same file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from broker.settings.fleet import Fleet
from broker.settings.lanes import Lane
from broker.settings.tools import ToolSettings
from broker.settings.types import TaskType
from broker.settings.values import Table

_Row = TypeVar("_Row", bound=Table)
#: Keys of tools that are files or folders.
_OF_TOOLS = frozenset({"folder", "database"})


def of_fleet(fleet: Fleet, folder: Path) -> Fleet:
    ledger = fleet.ledger if "://" in fleet.ledger else str(folder / fleet.ledger)
    return fleet.model_copy(update={"ledger": ledger, "var": folder / fleet.var})


def of_type(row: TaskType, folder: Path) -> TaskType:
    return _in_folder(row, folder, "examples_file")


def of_lane(row: Lane, folder: Path) -> Lane:
    return _in_folder(row, folder, "model_path", "api_key_file").model_copy(
        update={
            "endpoints": tuple(_in_folder(one, folder, "api_key_file") for one in row.endpoints),
            "vllm": _in_folder(row.vllm, folder, "python"),
        }
    )


def of_tool(row: ToolSettings, folder: Path) -> ToolSettings:
    return _in_folder(row, folder, *(_OF_TOOLS & row.model_fields_set))


def _in_folder(row: _Row, folder: Path, *keys: str) -> _Row:
    return row.model_copy(update={key: folder / path for key in keys if (path := getattr(row, key))})
