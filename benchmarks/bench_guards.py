"""Tokens that context guards save on long histories and documents, and whether the answers stay as good.

The packaged small model answers under llama.cpp, through a fleet of real processes. Each case is run plain and with a
guard. Reviews to be judged come after a long conversation about other things; a code word to be found stands somewhere
in a long text. A case counts where the gate holds the known answer. Run: python -m benchmarks.bench_guards
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench_path import dramatiq, fleet
from laneway.cli.compare import VARIANTS, figures, submitted
from laneway.client import Client
from workers.engines.launcher import stop_all

ROOT = Path(__file__).parents[1]
TURNS, LINES = 30, 90
REVIEWS = {
    "positive": (
        "I love it, it is wonderful.", "Excellent quality, very happy with it.", "The best purchase of the year.",
        "Great service and a great product.", "It works perfectly, thank you!", "Beautiful and well made.",
        "My family is delighted with it.", "Fantastic, I recommend it to everyone.",
    ),
    "negative": (
        "I hate it, it is terrible.", "Awful quality, very disappointed.", "The worst purchase of the year.",
        "Bad service and a bad product.", "It broke on the first day, useless.", "Ugly and badly made.",
        "My family is angry about it.", "Horrible, I warn everyone against it.",
    ),
}  # fmt: skip
WORDS = ("apple", "river", "candle", "marble", "violin", "garden", "copper", "winter")
TOML = """
[fleet]
var = "VAR"
[lanes.local]
engine = "llamacpp"
context_tokens = 4096
max_tokens = 12
threads = 2
timeout_s = 300
[types.review]
chain = ["local"]
instruction = "Is the last review positive or negative? Answer with one word."
gate = { kind = "choice", choices = ["positive", "negative"] }
context = { turns = 5 }
[types.find]
chain = ["local"]
instruction = "Answer from the text in a few words."
context = { passages_chars = 600 }
[types.general]
chain = ["local"]
"""


def filler() -> list[str]:
    lines = (ROOT / "demo" / "tasks.jsonl").read_text().splitlines()
    return [str(json.loads(line).get("prompt") or "")[:300] for line in lines]


def reviews() -> list[dict[str, Any]]:
    said = [text for text in filler() if text][:TURNS]
    history = [
        one
        for text in said
        for one in ({"role": "user", "content": text}, {"role": "assistant", "content": "Noted. We go on."})
    ]
    return [
        {
            "type": "review",
            "messages": [*history, {"role": "user", "content": f"Review: {review} Positive or negative?"}],
            "gate": {"kind": "regex", "pattern": f"^{label}$"},
        }
        for label, texts in REVIEWS.items()
        for review in texts
    ]


def lookups() -> list[dict[str, Any]]:
    rows = []
    for number, word in enumerate(WORDS):
        lines = [
            f"Note {n}: the shop in street {n} opens at {n % 12 + 1} and sells bread." for n in range(LINES)
        ]
        lines.insert(10 + 8 * number, f"The secret code word of the club is {word}.")
        asked = {"role": "user", "content": "What is the secret code word of the club?"}
        text = {"role": "user", "content": "\n".join(lines)}
        gate = {"kind": "regex", "pattern": f"(?i){word}"}
        rows.append({"type": "find", "messages": [text, asked], "gate": gate})
    return rows


def measured(client: Client, cases: list[dict[str, Any]], guard: str) -> str:
    found = {}
    for name in ("plain", guard):
        handles = submitted(client, [{**row, "workspace": "bench"} for row in cases], VARIANTS[name])
        for handle in handles:
            handle.result(timeout_s=900)
        found[name] = figures([client.record(one.task_id, workspace="bench") for one in handles])
    plain, cut = found["plain"], found[guard]
    return (
        f"{guard}: {plain['input_tokens']:,} → {cut['input_tokens']:,} tokens in"
        f" ({1 - cut['input_tokens'] / plain['input_tokens']:.0%} saved),"
        f" right {plain['succeeded']} → {cut['succeeded']} of {len(cases)}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        toml = TOML.replace("VAR", f"{folder}/var")
        try:
            lane = dramatiq("workers.lane_local", threads=2)
            with fleet(toml, dramatiq("dispatcher.node", threads=2), lane) as client:
                print(measured(client, reviews(), "history"), flush=True)
                print(measured(client, lookups(), "passages"), flush=True)
        finally:
            stop_all(Path(folder) / "var")


if __name__ == "__main__":
    main()
