"""The Procfile's form, and that the one we ship names every module that there is to run."""

from pathlib import Path

import pytest

from broker.errors import ConfigError
from laneway.procfile import parse

ROOT = Path(__file__).parents[2]


def test_names_and_words_in_the_order_of_the_file() -> None:
    text = "# head\n\nb: run --with 'two words'\n  a-1 :x\n"

    assert parse(text) == {"b": ["run", "--with", "two words"], "a-1": ["x"]}
    assert list(parse(text)) == ["b", "a-1"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("no colon here", "is not of the form"),
        ("name:", "is not of the form"),
        ("two words: x", "is not of the form"),
        ("b: x", "a second process is named 'b'"),
        ("c: say 'open", "No closing quotation"),
        ("c: one && two", "'&&' means something to a shell only"),
        ("c: one | two", "'|' means something to a shell only"),
        ("c: serve --port $PORT", "'$PORT' means something to a shell only"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f"b: fine\n\n{line}\n")

    assert "Procfile, line 3: " in error.value.message
    assert complaint in error.value.message
    assert error.value.mend


def test_our_own_procfile_runs_every_lane_the_dispatcher_and_accounting() -> None:
    commands = parse((ROOT / "Procfile").read_text(encoding="utf-8"))

    lanes = {path.stem for path in (ROOT / "workers").glob("lane_*.py")}
    modules = {command[1] for command in commands.values() if command[0] == "dramatiq"}
    assert modules == {f"workers.{lane}" for lane in lanes} | {"dispatcher.node", "accounting.node"}


def test_compose_runs_the_same_commands_as_the_procfile() -> None:
    compose = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")

    for command in parse((ROOT / "Procfile").read_text(encoding="utf-8")).values():
        assert f"command: {' '.join(command)}\n" in compose
