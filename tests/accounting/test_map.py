"""The package's map names its modules."""

import pkgutil
import re

import accounting


def test_every_module_is_on_the_map_once() -> None:
    named = re.findall(r"``(\w+)``", accounting.__doc__ or "")
    assert sorted(named) == sorted(module.name for module in pkgutil.iter_modules(accounting.__path__))
