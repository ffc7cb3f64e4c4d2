"""What every built-in tool keeps, what each says to its cases, and what nobody gets out of them."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from broker.errors import ConfigError, ToolError, ToolUnavailable
from broker.settings import Settings, parse
from broker.settings.tools import ExtractTool, ToolSettings
from dispatcher.schema import compiled
from workers import tools
from workers.tools import TOOLS, Tool, build
from workers.tools.extract import FORMS

Row = dict[str, Any]
Make = Callable[..., Tool]
ROWS: Mapping[str, Row] = {
    "calculator": {},
    "code": {},
    "extract": {},
    "mcp": {
        "command": [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"],
        "functions": ["convert_time"],
        "read_only": ["convert_time"],
    },
    "python": {"function": "tests.workers.tools_of_ours:days_between", "read_only": True},
    "schema_check": {},
    "search": {"folder": "FOLDER"},
    "sql": {"database": "FOLDER"},
}
USES: Mapping[str, tuple[dict[str, Any], str]] = {
    "calculator": ({"expression": "2 + 3"}, "5"),
    "code": ({"program": "print('a')\n6 * 7"}, "a\n42"),
    "extract": ({"text": "write to ann@example.com", "forms": ["email"]}, '{"email": ["ann@example.com"]}'),
    "mcp": ({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}, "21:00"),
    "python": ({"start": "2026-01-01", "end": "2026-01-31"}, "30"),
    "schema_check": ({"text": "5", "schema": {"type": "string"}}, "string"),
    "search": ({"query": "parcels to Norway"}, "[terms.md]\nParcels to Norway take nine days."),
    "sql": ({"query": "SELECT name FROM people WHERE age > 30"}, "name\nann\n"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, and links out of it to a secret."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.csv").write_text("password\nopen-sesame\n")
    folder = tmp_path_factory.mktemp("files")
    (folder / "people.csv").write_text("name,age\nann,40\nbob,20\n")
    (folder / "terms.md").write_text("Parcels to Norway take nine days.\n\nReturns are free.\n")
    (folder / "leak.csv").symlink_to(outside / "secret.csv")
    (folder / "notes.md").symlink_to(outside / "secret.csv")
    (folder / "way").symlink_to(outside)
    return folder


def settings(kind: str, row: Row, folder: Path) -> ToolSettings:
    told = {key: str(folder) if value == "FOLDER" else value for key, value in (ROWS[kind] | row).items()}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items())
    parsed: Settings = parse(f'[tools.mine]\nkind = "{kind}"\n{lines}', folder=folder)
    return parsed.tools["mine"]


@pytest.fixture(scope="module")
def standing(folder: Path) -> Iterator[Callable[[str], Tool]]:
    """One of each kind, made once."""
    made: dict[str, Tool] = {}

    def one(kind: str) -> Tool:
        if kind not in made:
            made[kind] = build("mine", settings(kind, {}, folder))
        return made[kind]

    yield one
    for tool in made.values():
        tool.close()


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[Tool] = []

    def one(kind: str, **row: Any) -> Tool:
        made.append(build("mine", settings(kind, row, folder)))
        return made[-1]

    yield one
    for tool in made:
        tool.close()


def said(tool: Tool, **arguments: Any) -> str:
    [function, *_] = tool.functions()
    return tool.run(function.name, arguments)


def refusal(tool: Tool, **arguments: Any) -> ToolError:
    with pytest.raises(ToolError) as refused:
        said(tool, **arguments)
    return refused.value


def test_every_kind_in_the_table_is_tried_here() -> None:
    assert set(ROWS) == set(USES) == set(TOOLS)


@pytest.mark.parametrize("kind", TOOLS)
def test_a_tool_tells_the_same_of_itself_each_time_and_does_what_it_says(
    standing: Callable[[str], Tool], kind: str
) -> None:
    tool = standing(kind)
    arguments, expected = USES[kind]
    [function] = tool.functions()
    assert json.dumps(function.definition()) == json.dumps(tool.functions()[0].definition())
    assert function.name == ("mine_convert_time" if kind == "mcp" else "mine")
    assert function.reads_only
    assert function.description
    assert not compiled(function.parameters).complaint(arguments)
    assert expected in tool.run(function.name, arguments)


@pytest.mark.parametrize("kind", TOOLS)
def test_the_configurations_own_words_describe_it_instead(make: Make, kind: str) -> None:
    tool = make(kind, description="Only for parcels.")
    assert tool.functions()[0].description.startswith("Only for parcels.")
    tool.close()  # and once more at the end


@pytest.mark.parametrize("kind", TOOLS)
def test_threads_share_a_tool(standing: Callable[[str], Tool], kind: str) -> None:
    tool = standing(kind)
    arguments, expected = USES[kind]
    came: list[bool] = []
    threads = [
        threading.Thread(target=lambda: came.append(expected in said(tool, **arguments))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came == [True] * 4


def test_a_package_that_is_missing_puts_the_tool_out_of_use_here_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.setitem(tools.TOOLS, "calculator", "no_such_package.here:Thing")
    with pytest.raises(ToolUnavailable, match=r"no_such_package is not installed[\s\S]*laneway\[tools\]"):
        make("calculator")


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("(52 + 28) * 3 / 4", "60"),
        ("2 ^ 10", "1024"),
        ("7 // 2 + 7 % 2", "4"),
        ("round(2 / 3, 4)", "0.6667"),
        ("sqrt(2) * sqrt(2) - 2 < 1", None),
        ("max(1, 2, sum(3, 4))", "7"),
        ("-abs(-5)", "-5"),
        ("1e3 + 1", "1001"),
        ("1 / 0", None),
        ("9 ** 9 ** 9 ** 9", None),
        ("10 ** 10001", None),
        ("__import__('os').system('id')", None),
        ("(lambda: 1)()", None),
        ("[1, 2]", None),
        ("'a' * 9", None),
        ("(" * 300 + "1" + ")" * 300, None),
        ("1 +" * 200 + "1", None),
        ("1" * 501, None),
        ("", None),
    ],
)
def test_the_calculator_is_exact_or_refuses(make: Make, expression: str, result: str | None) -> None:
    tool = make("calculator")
    if result is None:
        assert refusal(tool, expression=expression).failure == "tool_failed"
    else:
        assert said(tool, expression=expression) == result


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ('{"a": 1}', {"type": "object", "required": ["a"]}, "It satisfies the schema."),
        ('{"b": 1}', {"type": "object", "required": ["a"]}, "a"),
        ("{", {}, None),
        ("NaN", {}, None),
        ("[" * 5000, {}, None),
        ("1", {"type": "nonsense"}, None),
        ("1", {"$ref": "http://127.0.0.1:9/schema"}, None),
        ("1", {"$ref": "file:///etc/passwd"}, None),
    ],
)
def test_the_schema_check_says_what_is_wrong_and_fetches_nothing(
    make: Make, text: str, schema: object, expected: str | None
) -> None:
    tool = make("schema_check")
    if expected is None:
        refusal(tool, text=text, schema=schema)
    else:
        assert expected in said(tool, text=text, schema=schema)


EXTRACTS = [
    ("amount", "It is €1,234.50, or 99 USD; $5. 1'000 CHF", ["€1,234.50", "99 USD", "$5", "1'000 CHF"]),
    ("amount", "room 12, page 7", []),
    (
        "date",
        "2026-11-25, 25.11.2026, 11/25/26, Nov 25, 2026",
        ["2026-11-25", "25.11.2026", "11/25/26", "Nov 25, 2026"],
    ),
    ("date", "on 3 March 2026 and the 1st May 2027; version 1.2.3", ["3 March 2026", "1st May 2027"]),
    (
        "email",
        "Ann <ann.b+x@mail.example.co.uk>, bob@localhost, a@b.de a@b.de",
        ["ann.b+x@mail.example.co.uk", "a@b.de"],
    ),
    ("number", "from -3 to 1,000.5, v2 not", ["-3", "1,000.5"]),
    ("phone", "call +44 20 7946 0958 or 0049-30-901820, not 2026", ["+44 20 7946 0958", "0049-30-901820"]),
    (
        "url",
        "see https://a.example/x?y=1#z. (http://b.example/)",
        ["https://a.example/x?y=1#z", "http://b.example/"],
    ),
    ("uuid", "id 123e4567-e89b-12d3-a456-426614174000!", ["123e4567-e89b-12d3-a456-426614174000"]),
]


@pytest.mark.parametrize(("form", "text", "found"), EXTRACTS)
def test_extraction_takes_out_what_has_the_form_as_it_is_written(
    make: Make, form: str, text: str, found: list[str]
) -> None:
    assert json.loads(said(make("extract", forms=[form]), text=text)) == {form: found}


def test_every_form_has_a_case() -> None:
    assert {form for form, _, _ in EXTRACTS} == set(FORMS)


def test_extraction_has_patterns_of_ones_own_and_tells_of_what_it_finds() -> None:
    patterns = {"order": r"order (\d+)", "sku": r"[A-Z]{3}-\d+"}
    tool = build("mine", ExtractTool(kind="extract", forms=("email",), patterns=patterns))
    [function] = tool.functions()
    assert function.description.endswith("email (e-mail addresses), order, sku.")
    text = "order 17 and order 18 of ABC-9 for a@b.de, order 17 again"
    assert json.loads(said(tool, text=text)) == {"email": ["a@b.de"], "order": ["17", "18"], "sku": ["ABC-9"]}
    assert json.loads(said(tool, text=text, forms=["sku"])) == {"sku": ["ABC-9"]}
    assert compiled(function.parameters).complaint({"text": "", "forms": ["iban"]})


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "a." * 25_000, "a@" * 25_000, "+1 " * 16_000, "http://" * 7_000]
)
def test_no_text_keeps_a_form_of_ours_busy(make: Make, text: str) -> None:
    tool = make("extract", forms=sorted(FORMS))
    said(tool, text=text)  # for hours, if a pattern's time grew with the text's square
    assert refusal(tool, text="x" * 50_001).failure == "bad_arguments"


def test_search_finds_follows_and_cuts(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "The quarterly report covers parcels.\n\n" + "Filler without sense. " * 400
    )
    tool = make("search", folder=str(tmp_path), results=1)
    assert said(tool, query="quarterly?").startswith("[a.md]\nThe quarterly report")
    assert len(said(tool, query="filler")) < 2_500
    assert said(tool, query="zebra") == "Nothing was found."
    assert refusal(tool, query="?!").failure == "bad_arguments"


@pytest.mark.parametrize(
    "query",
    [
        "open-sesame",
        "password sesame",
        'text:"password"',
        "secret.csv OR password",
        "* NOT x",
        "file : leak",
        "NEAR(a b)",
    ],
)
def test_search_tells_nothing_from_outside_its_folder(make: Make, query: str) -> None:
    assert "sesame" not in said(make("search"), query=query)


def test_search_takes_no_pattern_out_of_its_folder(make: Make) -> None:
    assert said(make("search", glob="../*/*.csv"), query="password sesame") == "Nothing was found."


def test_search_has_an_end_for_a_query_of_any_length(make: Make) -> None:
    assert refusal(make("search"), query=" ".join(f"w{n}" for n in range(100_000))).failure == "bad_arguments"


@pytest.fixture(scope="module")
def asked(folder: Path) -> Iterator[Tool]:
    tool = build("mine", settings("sql", {"timeout_s": 1, "rows": 3}, folder))
    yield tool
    tool.close()


def test_sql_tells_its_tables_and_cuts_its_rows(asked: Tool) -> None:
    [function] = asked.functions()
    assert function.description.endswith("Tables: people(name VARCHAR, age BIGINT)"), (
        "nothing of what links out"
    )
    assert said(asked, query="FROM range(9)") == "range\n0\n1\n2\n(only the first 3 rows)\n"


@pytest.mark.parametrize(
    "query",
    [
        "COPY people TO 'OUT/stolen.csv'",
        "COPY (SELECT 1) TO 'IN/new.csv'",
        "EXPORT DATABASE 'OUT/all'",
        "ATTACH 'OUT/new.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '50GB'",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "CREATE TABLE x AS SELECT 1",
        "CREATE SECRET s (TYPE s3)",
        "INSERT INTO people VALUES ('x', 1)",
        "UPDATE people SET age = 1",
        "DELETE FROM people",
        "DROP VIEW people",
        "SELECT 1; DROP VIEW people",
        "PREPARE a AS SELECT 1",
        "CALL pragma_version()",
        "BEGIN",
        "CHECKPOINT",
        "",
    ],
)
def test_sql_answers_only_one_select(asked: Tool, folder: Path, query: str) -> None:
    before = sorted(folder.rglob("*"))
    assert refusal(asked, query=placed(query, folder)).failure == "refused"
    assert sorted(folder.rglob("*")) == before
    assert said(asked, query="SELECT count(*) FROM people") == "count_star()\n2\n"


def placed(query: str, folder: Path) -> str:
    outside = (folder / "way").resolve()
    return query.replace("OUT", str(outside)).replace("IN/", f"{folder}/")


@pytest.mark.parametrize(
    "query",
    [
        "FROM leak",
        "FROM 'OUT/secret.csv'",
        "FROM read_csv('OUT/secret.csv')",
        "FROM read_csv('IN/leak.csv')",
        "FROM read_csv('IN/way/secret.csv')",
        "FROM read_csv('IN/../outside0/secret.csv')",
        "FROM read_text('/etc/passwd')",
        "FROM read_blob('/proc/self/environ')",
        "FROM glob('OUT/*')",
        "FROM glob('/*')",
        "FROM sniff_csv('/etc/passwd')",
        "FROM parquet_metadata('/etc/passwd')",
        "FROM read_json('http://127.0.0.1:9/')",
        "FROM read_csv('s3://bucket/x.csv')",
        "FROM query('COPY people TO ''OUT/stolen.csv''')",
        "SELECT getenv('HOME')",
        "FROM duckdb_secrets()",
    ],
)
def test_sql_reads_nothing_from_outside_its_folder(asked: Tool, folder: Path, query: str) -> None:
    assert "sesame" not in str(refusal(asked, query=placed(query, folder)))
    assert not (folder / "way" / "stolen.csv").exists()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(100000000000) a, range(100) b",
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT max(i) FROM r",
        "SELECT list(a) FROM range(1000000000) t(a)",
        "SELECT string_agg(a::varchar || repeat('x', 1000), '') FROM range(100000000) t(a)",
        "SELECT repeat('x', 4000000000)",
        "SELECT repeat('x', 1000000000), repeat('y', 1000000000), repeat('z', 1000000000)",
    ],
)
def test_sql_ends_what_is_endless_or_too_large_and_answers_the_next(asked: Tool, query: str) -> None:
    refused = refusal(asked, query=query)
    assert refused.failure == "tool_timeout" or "emory" in str(refused)
    assert said(asked, query="SELECT 1 AS a") == "a\n1\n"


def test_sql_outlives_a_process_of_its_own_that_was_killed(asked: Tool) -> None:
    said(asked, query="SELECT 1")
    process = asked._idle[-1]  # type: ignore[attr-defined]
    os.kill(process._child.pid, 9)
    process._child.wait()
    assert "ended the database's process" in str(refusal(asked, query="SELECT 1"))
    assert said(asked, query="SELECT 1 AS a") == "a\n1\n"


def test_sql_over_a_database_reads_it_and_writes_nothing(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE TABLE orders AS SELECT 7 AS number; CREATE SEQUENCE s")
    before = path.read_bytes()
    tool = make("sql", database=str(path))
    assert tool.functions()[0].description.endswith("Tables: orders(number INTEGER)")
    assert said(tool, query="FROM orders") == "number\n7\n"
    refusal(tool, query="SELECT nextval('s')")
    refusal(tool, query=f"FROM read_blob('{path}')")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["shop.duckdb"]


@pytest.mark.parametrize(
    ("kind", "row", "problem"),
    [
        ("sql", {"database": "/no/such"}, "/no/such is not there"),
        ("sql", {"database": "/etc/hostname"}, "cannot be read"),
        ("search", {"folder": "/no/such"}, "is no folder"),
        ("python", {"function": "tests.workers.tools_of_ours:nothing"}, "is not there"),
        ("python", {"function": "tests.workers.tools_of_ours:positional"}, "without names"),
        ("python", {"function": "tests.workers.tools_of_ours:opaque"}, "JSON cannot tell"),
    ],
)
def test_a_wrong_configuration_names_its_key_and_the_mend(
    make: Make, kind: str, row: Row, problem: str
) -> None:
    with pytest.raises(ConfigError, match=r"tools\.mine[\s\S]*mend") as wrong:
        make(kind, **row)
    assert problem in wrong.value.message


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("days_between", {"start": "2026-02-01", "end": "2026-03-01"}, "28"),
        ("greet", {"person": {"name": "Ann", "age": 4}, "loud": True}, '{"greeting":"hello Ann!","age":4}'),
        ("greet", {"person": {"name": "Ann", "age": "x"}}, None),
        ("no_json", {}, None),
    ],
)
def test_a_function_of_the_teams_own_gets_what_its_annotations_say(
    make: Make, name: str, arguments: dict[str, Any], result: str | None
) -> None:
    tool = make("python", function=f"tests.workers.tools_of_ours:{name}")
    if result is None:
        refusal(tool, **arguments)
    else:
        assert said(tool, **arguments) == result
