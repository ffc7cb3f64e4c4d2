from decimal import Decimal
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.settings import load, parse
from broker.settings.budgets import TaskBudget
from broker.settings.gates import ChoiceGate
from broker.settings.lanes import Lane
from broker.settings.secrets import secret

GOOD = """
[lanes.local]
engine = "echo"
price = "free"

[lanes.local-guided]
engine = "echo"
hardware = { price_usd = 3000, life_years = 4, watts = 200, usd_per_kwh = "0.30" }

[types.general]
chain = ["local", "local-guided", "human"]
gate = { kind = "choice", choices = ["a", "b"] }
budget = { hard_usd = "0.50", llm_calls = 30 }

[[budgets]]
scope = "workspace:acme"
period = "day"
usd = "50"
"""


RENTED = '[lanes.rented]\nengine = "openai"\n'
LIMIT = '[[budgets]]\nscope = "fleet"\nperiod = "day"\nusd = "1"\n'

PRICED = '[lanes.a]\nengine = "openai"\nmodel = "m"\nprice = {}'
CACHED = """
[lanes.local]
engine = "anthropic"
cache = "TIME"
price = { input_mtok = "3", cached_input_mtok = "0.3", cache_write_mtok = "3.75", output_mtok = "15" }
"""


def test_the_contract_s_tables_are_read() -> None:
    settings = parse(GOOD)
    assert settings.types["general"].gate == ChoiceGate(kind="choice", choices=("a", "b"))
    assert settings.lanes["local-guided"].hardware is not None
    assert settings.budgets[0].scope == "workspace:acme"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[flet]\na = 1", "flet: unknown key; did you mean 'fleet'?"),
        (
            '[lanes.local]\nengine = "echo"\nthread = 3',
            "lanes.local.thread: unknown key; did you mean 'threads'?",
        ),
        ('[lanes.local]\nengine = "ecko"', "lanes.local.engine"),
        (
            '[fleet]\nidempotency_ttl_s = 60\nresult_ttl_s = 60\n[lanes.mac]\nengine = "echo"\n'
            "hardware = { price_usd = 1, life_years = 1, watts = 1, usd_per_kwh = 1 }",
            "fleet.idempotency_ttl_s: 60 is too short for lanes.mac.hardware",
        ),
        ('[types.general]\nchain = ["lokal"]', "types.general.chain: no lane 'lokal'; did you mean 'local'?"),
        ('[types.general]\nchain = ["human", "local"]', "'human' can only be the last rung"),
        ('[types.general]\nchain = ["local", "local"]', "twice"),
        ("[types.general]\nchain = []", "types.general.chain"),
        ('[types.general]\ngate = { kind = "none" }', "types.general.chain: Field required"),
        ('[types.general]\nchain = ["local"]\ngate = { kind = "coice" }', "unknown gate 'coice'"),
        ('[types.general]\nchain = ["local"]\ngate = { kind = "choice" }', "types.general.gate.choices"),
        ('[types.general]\nchain = ["local"]\npatterns = ["("]', "is not a regular expression"),
        ('[fleet]\ndefault_type = "generl"', "did you mean 'general'?"),
        ('[lanes.human]\nengine = "echo"', "the human lane is always there"),
        (
            '[lanes.a]\nengine = "echo"\nprice = { input_mtok = "x", output_mtok = "1" }',
            "lanes.a.price.0.input_mtok",
        ),
        (
            PRICED.format('"cheap"'),
            """lanes.a.price: is no price; write "free", figures, or a row of the price book""",
        ),
        (PRICED.format("[]"), "lanes.a.price: has no row"),
        (
            PRICED.format('{ input_mtok = "0.1234567", output_mtok = "1" }'),
            "lanes.a.price.0.input_mtok: Decimal input should have no more than 6 decimal places",
        ),
        (
            PRICED.format('{ input_mtok = "1", output_mtok = "1e9" }'),
            "lanes.a.price.0.output_mtok: Input should be less than 1000000000",
        ),
        (
            PRICED.format(
                '[{ input_mtok = "1", output_mtok = "1" }, { input_mtok = "2", output_mtok = "1" }]'
            ),
            "lanes.a.price: has two rows from 1970-01-01",
        ),
        (
            PRICED.format('{ input_mtok = "1", output_mtok = "1", above = [TIER, TIER] }').replace(
                "TIER", '{ tokens = 5, input_mtok = "1", output_mtok = "1" }'
            ),
            "lanes.a.price.0: has two prices for the same exception",
        ),
        (
            '[[prices.discounts]]\nprovider = "openai"\nfactor = "0.9"\nfrom = "2026-06-01"\nuntil = "2026-06-01"',
            "prices.discounts.0: holds on no day: until 2026-06-01 is not after from 2026-06-01",
        ),
        (
            '[[prices.monthly]]\nname = "x"\nusd_per_month = "1"\nfrom = "2026-06-01"\nuntil = "2026-01-01"',
            "prices.monthly.0: holds on no day",
        ),
        (
            '[[prices.monthly]]\nname = "x"\nusd_per_month = "1e40"',
            "prices.monthly.0.usd_per_month: Input should be",
        ),
        ('[[budgets]]\nscope = "team:x"\nperiod = "day"\nusd = "1"', "unknown scope 'team:x'"),
        (RENTED + 'base_url = "https://u:sk-1@example.org/v1"', "lanes.rented.base_url: holds a password"),
        (
            RENTED + 'endpoints = [{ base_url = "https://u:sk-1@example.org/v1" }]',
            "lanes.rented.endpoints.0.base_url: holds a password; name its environment variable in api_key_env",
        ),
        (RENTED + "timeout_s = inf", "lanes.rented.timeout_s: Input should be a finite number"),
        (
            '[[budgets]]\nscope = "fleet"\nperiod = "day"\nusd = "1e30"',
            "budgets.0.usd: Input should be less than 1000000000",
        ),
        ("[fleet]\ningest_flush_s = nan", "fleet.ingest_flush_s: Input should be a finite number"),
        (RENTED + 'base_url = "example.org"', "lanes.rented.base_url: is no web address"),
        (LIMIT + LIMIT.replace("1", "7"), "budgets: fleet per day stands there twice"),
        ('[[budgets]]\nscope = "lane:x"\nperiod = "day"\nusd = "1"', "names no lane"),
        ('[[budgets]]\nscope = "lane:human"\nperiod = "day"\nusd = "1"', "limits what has no price"),
        (
            '[human]\nusd_per_minutes = "1"',
            "human.usd_per_minutes: unknown key; did you mean 'usd_per_minute'?",
        ),
        ('[alerts]\nwebhook = "ftp://example.org"', "alerts.webhook: is no web address"),
        ('[alerts]\nwebhook = "http://example.org/hook"', "alerts.webhook: is not encrypted"),
        ('[alerts]\nwebhook = "https://example.org:port/"', "alerts.webhook: Port could not be cast"),
        ('[alerts]\nwebhook = "https://me:pw@example.org"', "alerts.webhook: holds a password"),
        (
            '[fleet]\nsmall_scale = { task_usd = "1", month_usd = "9" }\n'
            '[[budgets]]\nscope = "fleet"\nperiod = "month"\nusd = "1"',
            "fleet.small_scale: budgets has a limit",
        ),
        ('[lanes.local]\nengine = "echo"\ndialect = "vllm"', "which is for engine = 'openai'"),
        ('[lanes.local]\nengine = "openai"\ndialect = "latin"', "lanes.local.dialect: Input should be"),
        ('[lanes.local]\nengine = "openai"\ncache = "5m"', "which is for engine = 'anthropic'"),
        (
            '[lanes.local]\nengine = "echo"\nendpoints = [{ dialect = "vllm" }]',
            "which is for engine = 'openai'",
        ),
        (CACHED.replace("TIME", "1h"), "writes that have no price; set cache_write_1h_mtok"),
        (CACHED.replace("TIME", "2h"), "lanes.local.cache: Input should be"),
        ("[lanes", "is not TOML"),
    ],
)
def test_a_wrong_key_is_named_with_its_path(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"laneway\.toml") as caught:
        parse(text)
    assert told in str(caught.value)
    assert "sk-1" not in str(caught.value)
    assert caught.value.mend


def test_a_wrong_price_is_told_once() -> None:
    """What is wrong in figures is not told as a row of the book that is none, too."""
    with pytest.raises(ConfigError) as caught:
        parse(PRICED.format('{ input_mtok = "-1", output_mtok = "1" }'))
    assert caught.value.message == (
        "laneway.toml: lanes.a.price.0.input_mtok: Input should be greater than or equal to 0"
    )


def test_a_cache_whose_writes_have_a_price_is_taken() -> None:
    assert parse(CACHED.replace("TIME", "5m")).lanes["local"].cache == "5m"


def test_the_environment_overrides_a_scalar_and_a_dash_is_written_as_underscore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANEWAY_LANES__LOCAL_GUIDED__THREADS", "3")
    monkeypatch.setenv("LANEWAY_FLEET__LEASE_S", "2.5")
    settings = parse(GOOD)
    assert settings.lanes["local-guided"].threads == 3
    assert settings.fleet.lease_s == 2.5


def test_the_environment_overrides_a_scalar_of_a_row_by_the_row_s_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANEWAY_BUDGETS__0__USD", "3")
    monkeypatch.setenv("LANEWAY_TYPES__GENERAL__CHAIN__1", "rented")
    monkeypatch.setenv("LANEWAY_LANES__RENTED__ENDPOINTS__1__WEIGHT", "2.5")
    settings = parse(GOOD + RENTED + "endpoints = [{ weight = 9 }, { weight = 1 }]\n")
    assert [(row.scope, row.usd) for row in settings.budgets] == [("workspace:acme", Decimal(3))]
    assert settings.types["general"].chain == ("local", "rented", "human")
    assert [one.weight for one in settings.lanes["rented"].endpoints] == [9, 2.5]


def test_the_environment_gives_rows_of_lists_that_the_file_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"SCOPE": "fleet", "PERIOD": "month", "USD": "1"}.items():
        monkeypatch.setenv(f"LANEWAY_BUDGETS__0__{name}", value)
    for name, value in {"NAME": "watcher", "USD_PER_MONTH": "200"}.items():
        monkeypatch.setenv(f"LANEWAY_PRICES__MONTHLY__0__{name}", value)
    settings = parse("")
    assert [(row.scope, row.usd) for row in settings.budgets] == [("fleet", Decimal(1))]
    assert [row.name for row in settings.prices.monthly] == ["watcher"]
    monkeypatch.setenv("LANEWAY_PRICES__DISCOUNTS__1__FACTOR", "0.9")
    with pytest.raises(ConfigError, match="LANEWAY_PRICES__DISCOUNTS__1 names no row: the file has 0"):
        parse("")


def test_a_row_of_the_environment_is_added_at_the_next_place_and_at_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"SCOPE": "fleet", "PERIOD": "month", "USD": "1"}.items():
        monkeypatch.setenv(f"LANEWAY_BUDGETS__2__{name}", value)
    with pytest.raises(ConfigError, match="LANEWAY_BUDGETS__2 names no row: the file has 1") as caught:
        parse(GOOD)
    assert caught.value.mend.endswith("LANEWAY_BUDGETS__1")
    for name, value in {"SCOPE": "fleet", "PERIOD": "day", "USD": "1"}.items():
        monkeypatch.setenv(f"LANEWAY_BUDGETS__1__{name}", value)
    assert [one.period for one in parse(GOOD).budgets[1:]] == ["day", "month"]


def test_a_section_of_the_environment_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWAY_FLET__LEDGER", "x")
    with pytest.raises(ConfigError, match="flet: unknown key; did you mean 'fleet'"):
        parse(GOOD)


def test_relative_paths_are_taken_from_the_file_s_folder(tmp_path: Path) -> None:
    assert parse(GOOD, folder=tmp_path).fleet.ledger == str(tmp_path / "var/ledger")
    lane = '[lanes.local]\nengine = "openai"\napi_key_file = "key"\nmodel_path = "/m/a.gguf"\n'
    settings = parse(lane, folder=tmp_path)
    assert settings.lanes["local"].api_key_file == tmp_path / "key"
    assert settings.lanes["local"].model_path == Path("/m/a.gguf")


def test_a_category_s_limits_hold_under_a_type_s_own() -> None:
    settings = parse(
        """
[fleet]
small_scale = { task_usd = "9", month_usd = "99" }
[types.general]
chain = ["local"]
category = "exploratory"
budget = { llm_calls = 5 }
[types.other]
chain = ["local"]
category = "extractive"
[categories.exploratory]
budget = { hard_usd = "2", llm_calls = 60, tokens = 100000 }
"""
    )
    budget = settings.types["general"].budget
    assert (budget.hard_usd, budget.llm_calls, budget.tokens) == (Decimal(2), 5, 100_000)
    assert settings.types["other"].budget == TaskBudget(hard_usd=Decimal(9))
    with pytest.raises(ConfigError, match=r"categories\.extractiv"):
        parse("[categories.extractiv]\n")


def test_a_configuration_that_is_named_but_missing_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LANEWAY_CONFIG", str(tmp_path / "none.toml"))
    load.cache_clear()
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load()
    load.cache_clear()


def test_a_secret_comes_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_KEY", "from-the-environment")
    (tmp_path / "key").write_text("from-the-file\n")
    assert secret(Lane(engine="openai", api_key_env="A_KEY")) == "from-the-environment"
    assert secret(Lane(engine="openai", api_key_file=tmp_path / "key")) == "from-the-file"
    assert secret(Lane(engine="openai", api_key_env="NO_SUCH_KEY")) is None


def test_small_scale_is_one_line_for_a_limit_of_each_task_and_one_of_the_month() -> None:
    small = '[fleet]\nsmall_scale = { task_usd = "0.20", month_usd = "20" }\n'
    settings = parse(small + GOOD + '\n[types.other]\nchain = ["local"]\n')
    assert settings.types["general"].budget.hard_usd == Decimal("0.50")
    assert settings.types["other"].budget.hard_usd == Decimal("0.20")
    assert [(row.scope, row.period, row.usd) for row in settings.budgets] == [
        ("workspace:acme", "day", Decimal("50")),
        ("fleet", "month", Decimal("20")),
    ]


def test_the_human_lane_has_a_price_and_a_budget_of_its_own() -> None:
    text = '[human]\nusd_per_minute = "0.75"\n[[budgets]]\nscope = "lane:human"\nperiod = "day"\nusd = "40"\n'
    settings = parse(text)
    assert settings.human.usd_per_minute == Decimal("0.75")
    assert settings.budgets[0].scope == "lane:human"
