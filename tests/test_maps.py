"""A package's map names its modules."""

import importlib
import pkgutil
import re

import pytest

PACKAGES = (
    "accounting",
    "accounting.alerting",
    "accounting.bills",
    "accounting.files",
    "accounting.intake",
    "accounting.reports",
    "accounting.rollup",
    "broker",
    "broker.settings",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_is_on_the_map_once(name: str) -> None:
    package = importlib.import_module(name)
    named = re.findall(r"``(\w+)``", package.__doc__ or "")
    assert sorted(named) == sorted(module.name for module in pkgutil.iter_modules(package.__path__))
