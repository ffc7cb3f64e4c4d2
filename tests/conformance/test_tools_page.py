"""What ``docs/tools.md`` says of tools, held against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from broker.settings import parse, tools
from broker.settings.tools import ToolSettings

PAGE = (Path(__file__).parents[2] / "docs/tools.md").read_text()
KINDS = {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(get_args(ToolSettings)[0])}
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.split("## Kinds")[1].split("## Limits")[0], re.MULTILINE)
)


def test_the_page_has_each_kind_of_tool_and_no_other() -> None:
    assert set(ROWS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_each_key_of_a_kind(kind: str) -> None:
    common = set(tools.ToolTable.model_fields)
    ours = set(KINDS[kind].model_fields) - common - {"kind"}
    assert {key for key in ours if f"`{key}`" not in ROWS[kind]} == set()
    assert {key for key in common if f"`{key}`" not in PAGE} == set()


def test_the_pages_first_example_is_a_configuration() -> None:
    example = PAGE.split("```toml\n")[1].split("```")[0]
    lanes = '[lanes.local]\nengine = "echo"\n[lanes.midtier]\nengine = "echo"\n'
    parsed = parse(f'[fleet]\ndefault_type = "questions"\n{lanes}{example}')
    assert set(parsed.types["questions"].tools) == set(parsed.tools) == {"calculator", "shop", "clock"}
