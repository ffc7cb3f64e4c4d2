"""`laneway econ`: every calculator from its flags, from the ledger, and with what is wrong."""

import json
import shlex
import shutil
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click
import pytest
import redis

from accounting.files.ledger import US_PER_DAY, LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker.events import Attempted, Fact, Finished, Routed, Submitted
from laneway import cli
from laneway.cli.econ import econ
from laneway.cli.econ.page import cell, digits
from tests.accounting.stories import NOON_US, attempted, entry, publish, story
from tests.laneway.conftest import CommandLine
from tests.laneway.econ_page import write_ledger

WORK = "--tasks 500 --calls 4 --input-tokens 2000 --output-tokens 500"
TEAM = "spread --tasks 1000 --calls 3 --input-tokens 8000 --output-tokens 500"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.run(["econ", *words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def row(name: object) -> Callable[[Any], Any]:
    """The row whose first figure is this."""
    return lambda result: next(one for one in result if next(iter(one.values())) == name)


def whole(result: Any) -> Any:
    return result


ANSWERS: list[tuple[str, Callable[[Any], Any], dict[str, Any]]] = [
    (f"pattern {WORK} --price gpt-4o", row("3 pricing"), {"per_day_usd": "20.0", "per_month_usd": "600.0"}),
    (f"pattern {WORK} --price 2.50/10", row("4 multipliers"), {"per_month_usd": "1010.0"}),
    (f"pattern {WORK} --price gpt-4o --compound", row("4 multipliers"), {"per_month_usd": "1028.0"}),
    (
        f"pattern {WORK} --price gpt-4o --saving caching=40% --saving routing=0.3@80%",
        row("5 optimisations"),
        {"per_month_usd": "569.36"},
    ),
    (f"pattern {WORK} --price gpt-4o --growth 3", row("6 growth"), {"per_month_usd": "2630.0"}),
    (
        f"{TEAM} --mix gpt-4o --mix 'gpt-4o,gpt-4o-mini, gpt-4o-mini'",
        row("gpt-4o"),
        {"per_day_usd": "75.0", "multiple": 75 / 28},
    ),
    (
        f"drivers {WORK} --price gpt-4o",
        row("input tokens a call"),
        {"now": 2000, "half_saves_usd": "5.0", "half_saves_share": 0.25},
    ),
    (
        f"drivers {WORK} --price gpt-4o --then-calls 2",
        row("calls a task"),
        {"before": 4, "after": 2, "effect_usd": "-10.0", "effect_share": -0.5},
    ),
    (
        f"drivers {WORK} --price gpt-4o --then-price 5/20",
        row("price"),
        {"before": None, "effect_usd": "20.0", "effect_share": 1},
    ),
    ("chain --step 90% --times 3", row("full restart"), {"multiple": 1 / 0.729}),
    (
        "chain --step 90%:0.01 --step 0.5:0.03",
        row("checkpoint"),
        {"per_success_usd": "0.071111111"},
    ),
    ("retry --run-usd 0.01 --success 85%", row("restart"), {"multiple": 1 / 0.85}),
    ("retry --run-usd 1 --success 0.9", row("resume"), {"per_success_usd": "1.033333333"}),
    (
        "retry --run-usd 0.1 --success 50% --attempts 1 --handover-usd 2",
        row("hand over after 1"),
        {"per_task_usd": "1.1"},
    ),
    (
        "lane-first --cheap-usd 0.001 --dear-usd 0.02 --success 80%",
        whole,
        {"needed_share": 0.05, "cheap_first_usd": "0.005", "pays": True},
    ),
    ("loop --loops 2 --per-call -30% --price gpt-4o", whole, {"multiple": 1.4}),
    (
        "loop --loops 3 --grows 1000 --price 1/0",
        whole,
        {"before_usd": "0.002", "after_usd": "0.009"},
    ),
    ("coordination --price gpt-4o", row("one agent with tools"), {"tokens_multiple": 4.96}),
    ("coordination --price gpt-4o --agents 1", row("one call"), {"per_task_usd": "0.01"}),
    ("cache --uses 2 --price gpt-4o", whole, {"most_saved_share": 0.25, "pays_from_uses": 2}),
    (
        "cache --uses 3 --price claude-3-5-sonnet-20241022 --kept 1h",
        whole,
        {"prefix_multiple": 2.2 / 3, "pays_from_uses": 3},
    ),
    ("cache --uses 2 --price 3/15", whole, {"prefix_multiple": 0.675}),
    ("cache --uses 2 --price 3/15 --write 125% --read 10%", whole, {"prefix_multiple": 0.675}),
    ("cache --uses 2 --price gpt-4-turbo", whole, {"pays_from_uses": None, "saved_share": 0}),
    ("self-host --month-usd 2200 --price gpt-4o", row("gpt-4o"), {"blended_mtok_usd": "4.0"}),
    (
        "self-host --hour-usd 1.50 --machines 2 --price gpt-4o --tokens-per-s 1000",
        row("gpt-4o"),
        {"tokens_per_day": 18_000_000, "busy_share": 18 / 86.4, "can_pay": True},
    ),
    (
        "crossover --hardware 3000 --usd-rate 1.27 --rented-1k 0.40 --local-1k 0.05",
        whole,
        {"tasks_per_day": 3810 / 1095 / 0.00035, "busy_share": None},
    ),
    (
        "crossover --hardware 1095 --watts 1000 --rented-1k 1 --local-1k 0",
        whole,
        {"fixed_per_day_usd": "8.2", "tasks_per_day": 8200},
    ),
    ("utilisation --hour-usd 0.90 --tasks-per-hour 1", row(1), {"per_task_usd": "0.9"}),
    ("utilisation --hour-usd 0.90", row(1000), {"per_task_usd": "0.0009"}),
    (
        "margin --task-usd 0.04 --success 80% --outcome-usd 0.50",
        row("per outcome"),
        {"cost_usd": "0.05", "careful_margin_usd": "0.25"},
    ),
    (
        "margin --task-usd 0.04 --success 80% --use-usd 0",
        row("per use"),
        {"price_usd": "0.0", "margin_usd": "-0.04", "margin_share": None},
    ),
    ("budget --month-usd 50000", row("80%: notify operations"), {"per_day_usd": "1333.333333333"}),
    ("budget --month-usd 50000", row("tasks at the hard cap"), {"tasks_per_day": 3333}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "place", "figures"), ANSWERS, ids=[words for words, _, _ in ANSWERS])
def test_a_calculator_answers_in_one_document(
    words: str,
    place: Callable[[Any], Any],
    figures: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = told(capsys, *shlex.split(words))
    assert document["calculator"] == words.split()[0]
    assert document["given"].keys() == document["from"].keys()
    found = place(document["result"])
    assert {name: found[name] for name in figures} == pytest.approx(figures)
    assert document.get("formula") or all(one["formula"] for one in document["result"])


def test_every_calculator_has_a_case() -> None:
    assert {words.split()[0] for words, _, _ in ANSWERS} | {"rates"} == set(econ.commands)


def test_an_answer_says_where_each_figure_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    document = told(
        capsys, "cache", "--uses", "9", "--price", "gpt-4o", "--day", "2026-02-01", "--read", "0.4"
    )
    book = "book:openai/gpt-4o@1970-01-01"
    said = {
        name: document["from"][name] for name in ("uses", "input_tokens", "read_multiple", "input_mtok_usd")
    }
    assert said == {
        "uses": "given",
        "input_tokens": "default",
        "read_multiple": "given",
        "input_mtok_usd": book,
    }
    assert document["given"]["write_multiple"] == 1
    assert document["given"]["read_multiple"] == 0.4
    assert list(document["given"])[:3] == ["uses", "input_tokens", "output_tokens"]


def test_each_of_several_prices_is_told_with_its_row_in_the_book(capsys: pytest.CaptureFixture[str]) -> None:
    document = told(capsys, *shlex.split(f"{TEAM} --mix 'gpt-4o, o1' --mix 1/2"))
    assert {name: source for name, source in document["from"].items() if name.startswith("price_of_")} == {
        "price_of_gpt-4o": "book:openai/gpt-4o@1970-01-01",
        "price_of_o1": "book:openai/o1@1970-01-01",
    }
    assert document["given"]["price_of_o1"] == "15.0/60.0"


def test_a_person_is_shown_the_idea_the_formula_what_was_given_and_the_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        cli.run(["econ", "lane-first", "--cheap-usd", "0.001", "--dear-usd", "0.02", "--success", "0"]) == 0
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Whether a cheap lane pays that is tried before a dear one."
    assert lines[1].startswith("Formula: cheap first: (c + (1 - p) C) / (p + (1 - p) P)")
    for line in (
        "--cheap-usd $0.00100 given",
        "--success 0% given",
        "--dear-success 100% default",
        "price multiple 20x",
        "needed share 5%",
        "saved share -5%",
        "pays no",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("retry --run-usd 1", "--success is needed"),
        ("retry --run-usd 1 --success 0", "0 is not above 0% and at most 100%"),
        ("retry --run-usd 1 --success 101%", "101% is not above 0%"),
        ("retry --run-usd -1 --success 1", "-1 is not 0 or more"),
        ("retry --run-usd 0 --success 1", "a run costs something"),
        ("retry --run-usd NaN --success 1", "'NaN' is not a number"),
        ("retry --run-usd 1e999999 --success 1", "has too many digits"),
        ("retry --run-usd 1e-99 --success 1", "has too many digits"),
        ("retry --run-usd 1,5 --success 1", "'1,5' is not a number"),
        ("retry --run-usd 1 --success 1 --attempts 1.5", "is not a whole number"),
        ("retry --run-usd 1 --success 1 --attempts 0", "0 is not 1 or more"),
        ("chain", "--step is needed"),
        ("chain --step 90%:x", "'x' is not a number"),
        ("chain --step 0", "0 is not above 0%"),
        ("chain --step 1% --times 1000", "which nobody can pay"),
        ("chain --step 1% --step 1% --times 501", "1002 steps are more than 1000"),
        ("loop --loops 2", "--price is needed"),
        ("loop --loops 2 --price gpt-5o", "no 'gpt-5o'"),
        ("loop --loops 2 --price gpt-4o --day 1969-12-31", "no 'gpt-4o' on 1969-12-31"),
        ("loop --loops 2 --price gpt-4o --day today", "'today' is no day"),
        ("loop --loops 2 --price 1.2.3/4", "'1.2.3' is not a number"),
        ("loop --loops 2 --price 0/0", "a loop costs something"),
        ("loop --loops 2 --per-call -2 --price 1/1", "-2 is not -100% or more"),
        ("cache --uses 2 --price gpt-4o --prefix-tokens 3000", "the prefix has more tokens"),
        (f"pattern {WORK}", "--price is needed"),
        ("pattern --tasks 1 --calls 1 --price gpt-4o", "--input-tokens is needed"),
        (f"pattern {WORK} --price gpt-4o --saving 40%", "'40%' is not NAME=SHARE"),
        (f"pattern {WORK} --price gpt-4o --saving a=140%", "140% is not 0% or more"),
        (f"pattern {WORK} --price gpt-4o --tasks 0", "0 is not above 0"),
        (f"{TEAM}", "--mix is needed"),
        (f"{TEAM} --mix gpt-4o,", "the price book has no ''"),
        (
            "drivers --tasks 1 --calls 1 --input-tokens 0 --output-tokens 0 --price 1/1",
            "no drivers",
        ),
        ("self-host --price gpt-4o", "--month-usd is needed"),
        ("self-host --month-usd 1 --hour-usd 1 --price gpt-4o", "not both"),
        ("self-host --month-usd 1 --machines 2 --price gpt-4o", "--machines goes with --hour-usd"),
        ("self-host --month-usd 1", "--price is needed"),
        ("crossover --rented-1k 1 --local-1k 0", "--hardware is needed"),
        ("utilisation", "--hour-usd is needed"),
        ("margin --task-usd 1 --success 1", "a price is needed: one of --seat-usd"),
        ("budget --month-usd 1 --target 1", "in that order"),
        ("retry --run-usd 1 --success 1 --lane local", "--lane goes with --from-ledger"),
        ("margin --task-usd 1 --success 1 --use-usd 2 --type a", "--type goes with --from-ledger"),
        ("nothing", "No such command 'nothing'"),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_prints_nothing_else(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["econ", *words.split(), "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in " ".join(shown.err.split())


def test_a_model_that_is_nearly_in_the_book_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["econ", "loop", "--loops", "2", "--price", "gpt-4o-mni"]) == 2
    assert "did you mean gpt-4o-mini or" in capsys.readouterr().err


def options() -> list[tuple[str, click.Option]]:
    return [
        (name, param)
        for name, command in econ.commands.items()
        for param in command.params
        if isinstance(param, click.Option) and not param.is_flag
    ]


@pytest.mark.parametrize(("name", "option"), options(), ids=lambda part: getattr(part, "name", part))
def test_every_option_has_a_default_or_says_what_holds_without_it(name: str, option: click.Option) -> None:
    words = option.help or ""
    assert option.default is not None or "[needed" in words or " else" in words, words


def test_the_list_of_calculators_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["econ", "--help"]) == 0
    lines = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(econ.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize(
    ("value", "decimals", "written"),
    [("0", 2, "0"), ("2", 2, "2"), ("1234.5", 2, "1,234.5"), ("1/3", 3, "0.333"), ("-1/3", 1, "-0.333"),
     ("2/3", 0, "0.667"), ("1/170", 1, "0.00588"), ("100", 0, "100"), ("1e-12", 2, "0")],
)  # fmt: skip
def test_figures_keep_the_digits_that_count(value: str, decimals: int, written: str) -> None:
    assert digits(Fraction(value), decimals) == written


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [("a_usd", -1, "-$1.00"), ("a_usd", 1234, "$1,234.00"), ("a_share", 1, "100%"), ("a_multiple", 2, "2x"),
     ("pays", True, "yes"), ("a", None, "-"), ("a", "words", "words"), ("a", ("b", "c"), "b, c")],
)  # fmt: skip
def test_a_figure_has_the_unit_of_its_name(name: str, value: Any, written: str) -> None:
    assert cell(name, value) == written


# From the ledger


@pytest.fixture
def fed(laneway: CommandLine) -> CommandLine:
    """Ten tasks of "intent" of which eight pass on the lane local, and two wait for a person; one of "general"."""
    for number in range(10):
        word = "refund" if number % 5 else "rude"
        laneway.client.submit(f"which intent, number {number}: {word}")
    laneway.client.submit("anything")
    laneway.work()
    laneway.run("rollup")
    return laneway


def test_rates_are_what_the_ledger_measured(fed: CommandLine) -> None:
    document = fed.json("econ", "rates", "--type", "intent")
    (rate,) = document["result"]
    assert (rate["task_type"], rate["lane"], rate["tries"], rate["success_share"]) == (
        "intent",
        "local",
        10,
        0.8,
    )
    assert rate["attempts_per_success"] == 1.25
    report = fed.json("report")
    (group,) = [one for one in report["groups"]["type"] if one["name"] == "intent"]
    spent = sum(float(part["usd"]) for part in report["parts"] if part["name"] == "inference")
    assert 0 < float(rate["per_success_usd"]) <= float(group["cost_usd"]) / 8
    assert 10 * float(rate["per_try_usd"]) < spent
    assert len(fed.json("econ", "rates")["result"]) == 2


def test_calculators_take_from_the_ledger_what_is_not_given(fed: CommandLine) -> None:
    (rate,) = fed.json("econ", "rates", "--type", "intent")["result"]
    retry = fed.json("econ", "retry", "--from-ledger", "--type", "intent")
    assert retry["given"]["success_share"] == rate["success_share"]
    assert retry["given"]["run_usd"] == rate["per_try_usd"]
    assert retry["from"]["run_usd"].startswith("ledger, 20")
    assert retry["from"]["lane"] == "default"
    given = fed.json("econ", "retry", "--from-ledger", "--type", "intent", "--success", "50%")
    assert (given["given"]["success_share"], given["from"]["success_share"]) == (0.5, "given")
    plan = fed.json("econ", "pattern", "--from-ledger", "--type", "intent", "--price", "gpt-4o")
    assert (plan["given"]["tasks_per_day"], plan["given"]["calls"]) == (10, 1)
    assert (plan["given"]["eval_share"], plan["given"]["review_share"]) == (0, 0)
    assert plan["from"]["eval_share"].startswith("ledger, 20")
    assert (plan["given"]["monitoring_usd"], plan["from"]["monitoring_usd"]) == ("200.0", "default")
    assert plan["given"]["input_tokens"] == rate["input_tokens"]
    first = fed.json(
        "econ", "lane-first", "--from-ledger", "--type", "intent", "--dear-usd", "1", "--dear", "local"
    )
    assert first["given"]["cheap_usd"] == rate["per_try_usd"]
    sold = fed.json("econ", "margin", "--from-ledger", "--type", "intent", "--outcome-usd", "1")
    assert sold["given"].keys() >= {"task_usd", "p95_usd", "success_share"}
    [outcome], types = sold["result"], fed.json("report")["groups"]["type"]
    [told] = [one for one in types if one["name"] == "intent"]
    assert (sold["given"]["success_share"], told["judged"]) == (0.8, 8)
    assert outcome["cost_usd"] == told["cost_per_success_usd"]
    own = ["--hardware", "3000", "--rented", "local", "--local-1k", "0"]
    crossed = fed.json("econ", "crossover", "--from-ledger", "--type", "intent", *own)
    assert float(crossed["given"]["rented_1k_usd"]) == pytest.approx(
        1000 * float(rate["per_success_usd"]), rel=1e-6
    )
    assert crossed["result"]["busy_share"] is not None


def write_discounted(client: redis.Redis, laneway: CommandLine, days: int = 3) -> None:
    """Of each day ten tasks, each with a call of 10,000 tokens, nine tenths of them cached; every other in a batch."""
    store = LocalStore(laneway.folder / "ledger")
    routed = Routed("intent", "extractive", "regex", "", 1.0, ("frontier",), "frontier", "cheapest")
    usage = {"lane": "frontier", "input_tokens": 1000, "cached_input_tokens": 9000, "output_tokens": 100}
    for day in range(days):
        for number in range(10):
            nano, batch = (14_750_000 // (2 if number % 2 else 1), bool(number % 2))
            call = attempted(f"{day}-{number}", cost_nano=nano, batch=batch, verdict="pass", **usage)
            facts: list[Fact] = [Submitted("async"), routed, call, Finished("succeeded", True, "frontier")]
            made = story(f"{day}-{number}", facts, at_us=NOON_US + day * US_PER_DAY)
            publish(client, [entry(made)])
    ingest.drain_all(client, store, LocalStore(laneway.folder / "quarantine"))
    rollup.rollup_dirty(client, store)
    laneway.configure(f'[fleet]\nledger = "{store.root}"\n{laneway.config.read_text()}')


def test_a_month_from_the_ledger_costs_what_its_days_did(laneway: CommandLine, client: redis.Redis) -> None:
    write_discounted(client, laneway)
    words = ["econ", "pattern", "--from-ledger", "--monitoring-usd", "0"]
    said = laneway.run(*words, "--json")
    document = json.loads(said.stdout)
    assert row("4 multipliers")(document["result"])["per_month_usd"] == "3.31875"  # 30 times 11.0625 cents
    assert document["from"]["input_mtok_usd"] == "ledger, 2026-01-01 to 2026-01-03"
    assert said.stderr == ""
    for more in (words, ["econ", "drivers", "--from-ledger"]):
        told = laneway.run(*more, "--price", "gpt-4o").stderr
        assert (
            "90.0% of the input was read from a cache and 50.0% of the tries went in a batch, and --price"
            in told
        )


def test_a_day_that_was_not_rolled_counts_in_no_mean_and_is_told(
    laneway: CommandLine, client: redis.Redis
) -> None:
    write_discounted(client, laneway)
    for dataset in ("tasks", "attempts", "daily"):
        shutil.rmtree(laneway.folder / "ledger" / dataset / "date=2026-01-02")
    said = laneway.run("econ", "pattern", "--from-ledger", "--json")
    assert json.loads(said.stdout)["given"]["tasks_per_day"] == 10
    assert "1 day has events and no nightly files, and are in no figure: 2026-01-02" in said.stderr


def test_monitoring_is_what_the_settings_say_is_paid_by_the_month(fed: CommandLine) -> None:
    fed.configure(
        fed.config.read_text()
        + '[[prices.monthly]]\nname = "watch"\nusd_per_month = "180"\n'
        + '[[prices.monthly]]\nname = "seat"\nusd_per_month = "20.50"\n'
        + '[[prices.monthly]]\nname = "gone"\nusd_per_month = "7"\nuntil = "2026-01-01"\n'
    )
    plan = fed.json("econ", "pattern", "--from-ledger", "--price", "gpt-4o")
    assert (plan["given"]["monitoring_usd"], plan["from"]["monitoring_usd"]) == ("200.5", "prices.monthly")
    told = fed.json("econ", "pattern", "--from-ledger", "--price", "gpt-4o", "--monitoring-usd", "1")
    assert (told["given"]["monitoring_usd"], told["from"]["monitoring_usd"]) == ("1.0", "given")


def test_the_ledger_s_day_costs_by_its_drivers_what_it_did_cost(fed: CommandLine) -> None:
    document = fed.json("econ", "drivers", "--from-ledger")
    spent = sum(row["tries"] * float(row["per_try_usd"]) for row in fed.json("econ", "rates")["result"])
    (calls,) = [row for row in document["result"] if row["driver"] == "calls a task"]
    assert 2 * float(calls["half_saves_usd"]) == pytest.approx(spent)


def write_parts(client: redis.Redis, laneway: CommandLine, critic_nano: int | None = 2 * 10**7) -> None:
    """Three tasks of "draft" and two of "research", each of the former with a critic, and with a sub-task of "research"
    that is done again, of another price and length."""
    store = LocalStore(laneway.folder / "ledger")

    def told(name: str, task_type: str, root: str, *calls: Attempted) -> None:
        routed = Routed(task_type, "extractive", "regex", "", 1.0, ("local",), "local", "", root=root)
        facts: list[Fact] = [
            Submitted("sync", parent=root or None),
            routed,
            *calls,
            Finished("succeeded", True),
        ]
        publish(client, [entry(story(name, facts))])

    for number in range(3):
        name = f"d{number}"
        told(name, "draft", "", attempted(f"{name}-1", cost_nano=10**7, input_tokens=300))
        again = attempted(f"{name}-s2", cost_nano=5 * 10**7, purpose="retry", input_tokens=999)
        told(
            f"{name}-s",
            "research",
            name,
            attempted(f"{name}-s1", cost_nano=7 * 10**7, input_tokens=450),
            again,
        )
        told(f"{name}-c", "judge", name, attempted(f"{name}-c1", cost_nano=critic_nano, purpose="judge"))
    for number in range(2):
        told(f"r{number}", "research", "", attempted(f"r{number}-1", cost_nano=4 * 10**7, input_tokens=8))
    ingest.drain_all(client, store, LocalStore(laneway.folder / "quarantine"))
    rollup.rollup_dirty(client, store)
    laneway.configure(f'[fleet]\nledger = "{store.root}"\n{laneway.config.read_text()}')


@pytest.mark.parametrize(("task_type", "cents"), [("draft", 45), ("research", 8)])
def test_a_type_costs_with_the_parts_of_its_tasks_what_the_report_says_it_does(
    task_type: str, cents: int, laneway: CommandLine, client: redis.Redis
) -> None:
    write_parts(client, laneway)
    [group] = [one for one in laneway.json("report")["groups"]["type"] if one["name"] == task_type]
    assert group["cost_usd"] == f"0.{cents:02}"
    words = ["--from-ledger", "--type", task_type]
    plan = laneway.json("econ", "pattern", *words, "--monitoring-usd", "0")["result"]
    assert float(row("4 multipliers")(plan)["per_day_usd"]) == pytest.approx(cents / 100)
    levers = laneway.json("econ", "drivers", *words)["result"]
    assert 2 * float(row("calls a task")(levers)["half_saves_usd"]) == pytest.approx(cents / 100)
    sold = laneway.json("econ", "margin", *words, "--use-usd", "1")["given"]
    assert float(sold["task_usd"]) == pytest.approx(cents / 100 / group["tasks"])


def test_parts_without_a_price_are_told_of_with_the_type_whose_cost_they_are_missing_from(
    laneway: CommandLine, client: redis.Redis
) -> None:
    write_parts(client, laneway, critic_nano=None)
    for task_type, said in (("draft", "3 of 12 tries have no known price"), ("research", "")):
        shown = laneway.run("econ", "pattern", "--from-ledger", "--type", task_type, "--json").stderr
        assert (said in shown, bool(shown)) == (True, bool(said))


def test_a_type_that_parts_alone_have_has_rates_and_no_cost_of_a_task(
    laneway: CommandLine, client: redis.Redis
) -> None:
    write_parts(client, laneway)
    assert [one["tries"] for one in laneway.json("econ", "rates", "--type", "research")["result"]] == [8]
    assert [one["tries"] for one in laneway.json("econ", "rates", "--type", "judge")["result"]] == [3]
    for name, more in (("pattern", ()), ("drivers", ()), ("margin", ("--use-usd", "1"))):
        said = laneway.run("econ", name, "--from-ledger", "--type", "judge", *more, code=1).stderr
        assert "no tasks of type 'judge'" in said
        assert "but parts of tasks" in said
        assert "name one of draft, research" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("retry --from-ledger --type nothing", 1, "no tasks of type 'nothing'"),
        ("retry --from-ledger --lane moon", 1, "--lane is one of local"),
        (
            "retry --from-ledger --type general",
            2,
            "the ledger does not say --success for these tasks; give it",
        ),
        ("rates --until 2020-01-01", 1, "laneway rollup --since 2019-12-03"),
        ("drivers --from-ledger --changed 2020-01-01", 2, "does not part the days"),
        ("rates --since 2026-01-03 --until 2026-01-02", 2, "--until 2026-01-02 is before --since 2026-01-03"),
        ("rates --until 0001-01-01", 2, "is not within the years 1900 to 2199"),
    ],
)
def test_what_the_ledger_cannot_say_is_said(fed: CommandLine, words: str, code: int, said: str) -> None:
    assert said in " ".join(fed.run("econ", *words.split(), code=code).stderr.split())


def test_without_nightly_files_the_way_to_them_is_told(laneway: CommandLine) -> None:
    assert "mend: laneway rollup" in laneway.run("econ", "rates", code=1).stderr


def test_of_tasks_that_no_model_was_called_for_there_are_no_rates(laneway: CommandLine) -> None:
    laneway.client.submit("which intent: refund")
    laneway.run("rollup")
    for flag in ((), ("--json",)):
        refused = laneway.run("econ", "rates", *flag, code=1)
        assert "no model was called for these tasks" in refused.stderr
        assert "mend: name other days with --since and --until" in refused.stderr
        assert refused.stdout == ""


def test_tries_without_a_price_are_told_of(laneway: CommandLine) -> None:
    laneway.configure(
        laneway.config.read_text().replace('price = { input_mtok = "100", output_mtok = "400" }\n', "")
    )
    laneway.client.submit("which intent: refund")
    laneway.work()
    laneway.run("rollup")
    said = laneway.run("econ", "rates", "--json")
    assert "1 of 1 tries have no known price" in said.stderr
    assert json.loads(said.stdout)["result"][0]["per_try_usd"] is None
    refused = laneway.run("econ", "drivers", "--from-ledger", code=2)
    assert "the ledger does not say" in refused.stderr


def test_a_price_that_is_given_holds_before_and_after_a_change(
    laneway: CommandLine, client: redis.Redis
) -> None:
    write_ledger(client, laneway.folder)
    changed = ["econ", "drivers", "--from-ledger", "--changed", "2026-01-02"]
    measured = {row["driver"]: row for row in laneway.json(*changed)["result"]}
    assert measured["all together"]["effect_usd"] == "0.058"  # 5.6 cents on the first day, 11.4 on the second
    assert measured["price"]["effect_usd"] != "0.0"
    priced = {row["driver"]: row for row in laneway.json(*changed, "--price", "gpt-4o")["result"]}
    assert priced["price"]["effect_usd"] == "0.0"
