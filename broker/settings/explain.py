"""What is wrong with a configuration, key by key."""

from __future__ import annotations

import re
from collections.abc import Collection

from pydantic import BaseModel, ValidationError

from broker.settings.alerts import Alerts
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import S3, Fleet
from broker.settings.lanes import Lane
from broker.settings.names import near
from broker.settings.prices import Human, Prices
from broker.settings.types import Category, TaskType

#: What pydantic puts into a location to name the branch of a union.
_BRANCH = re.compile(r"Gate$|\[")
_OTHER_BRANCH = re.compile(r"literal\[|constrained-str$")


def explain(error: ValidationError, source: str, sections: Collection[str]) -> str:
    """Each wrong key by its path. ``sections`` are the tables that there are."""
    lines = []
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        if len(details) > 1 and _OTHER_BRANCH.match(str(detail["loc"][-1:][0])):
            continue  # the other branch of the union says it better
        path = ".".join(str(part) for part in detail["loc"] if not _BRANCH.search(str(part)))
        if detail["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key{_known_keys(detail['loc'], sections)}")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {message}" if path else message)
    return f"{source}: " + "\n  ".join(lines)


def _known_keys(location: tuple[int | str, ...], sections: Collection[str]) -> str:
    tables: dict[str, type[BaseModel]] = {
        "fleet": Fleet,
        "lanes": Lane,
        "types": TaskType,
        "categories": Category,
        "budgets": BudgetRow,
        "human": Human,
        "alerts": Alerts,
        "s3": S3,
        "prices": Prices,
    }
    if len(location) == 1:
        return near(str(location[0]), sections)
    table = tables.get(str(location[0]))
    depth = 2 if location[0] in ("fleet", "human", "alerts", "s3", "prices") else 3
    if table is None or len(location) != depth:
        return ""
    return near(str(location[-1]), table.model_fields)
