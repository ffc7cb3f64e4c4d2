"""Calculators of what context costs: loop, coordination, cache."""

from __future__ import annotations

from fractions import Fraction

import click

from accounting.econ import caching, context
from accounting.econ.caching import Cached, Prefix
from accounting.econ.context import Arrangement, Loop, Looped, Team
from laneway.cli.econ.answer import calculator
from laneway.cli.econ.given import MULTIPLE, Given, Share, count, option, tokens
from laneway.cli.econ.prices import FIGURES, in_book, priced, rates

INPUT = "Tokens that the first call reads."
OUTPUT = "Tokens that a call writes."
WRITE, READ = Fraction("1.25"), Fraction("0.1")  # the five-minute cache of Anthropic


@calculator("loop", "(1 + change a call) * cost of the calls after / cost of the calls before")
@count("--loops", "loops", "How often the model is called. [needed]")
@count("--before", "before_loops", "How often it was called before.", "1")
@option(
    "--per-call",
    "per_call_share",
    Share(-1, 100),
    "How much dearer a call has become; -30% is cheaper.",
    "0%",
    metavar="SHARE",
)
@tokens("--input-tokens", "input_tokens", INPUT, "2000")
@tokens("--output-tokens", "output_tokens", OUTPUT, "500")
@tokens("--grows", "grows_tokens", "Tokens that each call leaves in the context of the next.", "0")
@priced
def loop(given: Given) -> Looped:
    """What calling a model again and again costs.

    Calls that are 30% cheaper and twice as many cost 1.4 times as much; a context that grows makes it more.
    """
    return context.looped(
        Loop(
            rates(given),
            given["input_tokens"],
            given["output_tokens"],
            given["grows_tokens"],
            given.count("before_loops"),
            given.count("loops"),
            given["per_call_share"],
        )
    )


@calculator(
    "coordination", "calls in a row that each leave g tokens behind read n * input + g * n (n - 1) / 2"
)
@count(
    "--agents", "agents", "How many agents share the work; from two on somebody coordinates.", "2", most=1000
)
@count("--tool-calls", "tool_calls", "Round trips that each makes before its answer.", "3", least=0)
@tokens("--input-tokens", "input_tokens", INPUT, "2000")
@tokens("--output-tokens", "output_tokens", "Tokens of an answer.", "500")
@tokens("--ask-tokens", "ask_tokens", "Tokens that the model writes to ask a tool.", "100")
@tokens("--tool-tokens", "tool_tokens", "Tokens that the tool answers.", "500")
@tokens("--brief-tokens", "brief_tokens", "Tokens of what an agent is told by whoever coordinates.", "300")
@priced
def coordination(given: Given) -> tuple[Arrangement, ...]:
    """What tools and further agents add to the cost of an answer.

    The coordination tax. Multiples are over the line above. Every round trip has the whole context read again.
    """
    return context.coordination(
        Team(
            rates(given),
            given.count("agents"),
            given.count("tool_calls"),
            given["input_tokens"],
            given["output_tokens"],
            given["ask_tokens"],
            given["tool_tokens"],
            given["brief_tokens"],
        )
    )


@calculator("cache", "a use of the prefix, over plain input: (w + r (n - 1)) / n")
@count("--uses", "uses", "n: how often the prefix is used before the cache forgets it. [needed]")
@tokens("--input-tokens", "input_tokens", "Tokens that a call reads, the prefix among them.", "2000")
@tokens("--output-tokens", "output_tokens", OUTPUT, "500")
@tokens("--prefix-tokens", "prefix_tokens", "Tokens that calls have in common; else all of the input.")
@option(
    "--kept",
    "kept",
    click.Choice(["5m", "1h"]),
    "How long the provider keeps it: which price a write has.",
    "5m",
)
@option(
    "--write", "write_multiple", MULTIPLE, "w: a write, times plain input; else the book's price, or 1.25."
)
@option("--read", "read_multiple", MULTIPLE, "r: a read, times plain input; else the book's price, or 0.1.")
@priced
def cache(given: Given) -> Cached:
    """What a prompt cache saves, and from how many uses on.

    Shares are of the whole cost of a call, so its output limits them.
    """
    plain = rates(given)
    _feed_cache(given)
    given.feed("all of the input", {"prefix_tokens": given["input_tokens"]})
    return caching.cached(
        Prefix(
            plain,
            given["input_tokens"],
            given["output_tokens"],
            given["prefix_tokens"],
            given["write_multiple"],
            given["read_multiple"],
            given.count("uses"),
        )
    )


def _feed_cache(given: Given) -> None:
    """What writing and reading cost over plain input, by the book where the price is of a model."""
    words = given.text("price") or ""
    if FIGURES.fullmatch(words):
        given.feed("Anthropic's five minutes", {"write_multiple": WRITE, "read_multiple": READ})
        return
    price = in_book(given, words)
    write = price.cache_write_1h_pico if given.text("kept") == "1h" else price.cache_write_pico
    if price.input_pico:
        over = {"write_multiple": write, "read_multiple": price.cached_input_pico}
        given.feed(price.ref, {name: Fraction(pico, price.input_pico) for name, pico in over.items()})
