"""A package's map names its modules."""

import importlib
import pkgutil
import re

import pytest


@pytest.mark.parametrize("name", ["", ".files", ".intake", ".rollup", ".reports", ".bills", ".alerting"])
def test_every_module_is_on_the_map_once(name: str) -> None:
    package = importlib.import_module(f"accounting{name}")
    named = re.findall(r"``(\w+)``", package.__doc__ or "")
    assert sorted(named) == sorted(module.name for module in pkgutil.iter_modules(package.__path__))
