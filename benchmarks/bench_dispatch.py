"""How many tasks a second one process classifies by likeness, how long a single one waits, and what it weighs.

The types are those of demo/examples, learned from every file; the prompts are about 40 tokens of the same files, so
what is measured is time and memory and never accuracy. Run: python -m benchmarks.bench_dispatch
"""

from __future__ import annotations

import gc
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from broker.settings import Settings, parse
from dispatcher.classify import Classifier
from dispatcher.embedding import embedder

EXAMPLES = Path(__file__).parents[1] / "demo" / "examples"
BATCH = 100
ROUNDS = 9
SINGLES = 3000
PROMPT_CHARS = 180  # about 40 tokens


def settings() -> Settings:
    """Every type of demo/examples, each with two patterns that no prompt holds, as real types have some."""
    types = {path.stem: path for path in sorted(EXAMPLES.glob("*.jsonl"))}
    tables = [
        f'[types.{name}]\nchain = ["local"]\nexamples_file = {json.dumps(str(path))}\n'
        f'patterns = ["(?i)^/{name}\\\\b", "\\\\[task={name}\\\\]"]'
        for name, path in types.items()
    ]
    return parse("[fleet]\nabstain_below = 0.0\n" + "\n".join(tables))


def prompts(count: int) -> list[str]:
    rows = [
        line
        for path in sorted(EXAMPLES.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
    ]
    texts = [json.loads(row)["text"][:PROMPT_CHARS] for row in rows if row]
    return list(itertools.islice(itertools.cycle(texts), count))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def main() -> None:
    model = embedder()
    configured = settings()
    build_s = min(seconds(lambda: Classifier.build(configured, model)) for _ in range(3))
    classifier = Classifier.build(configured, model)
    many = prompts(20 * BATCH)
    batches = [many[at : at + BATCH] for at in range(0, len(many), BATCH)]
    classifier.classify(many[:BATCH])
    gc.freeze()
    rates = [
        len(many) / seconds(lambda: [classifier.classify(batch) for batch in batches]) for _ in range(ROUNDS)
    ]
    cpu = time.process_time()
    for batch in batches:
        classifier.classify(batch)
    cpu_us = 1e6 * (time.process_time() - cpu) / len(many)
    singles = [1000 * seconds(lambda one=one: classifier.classify([one])) for one in prompts(SINGLES)]  # type: ignore[misc]
    cuts = quantiles(singles, n=100)
    print(
        f"embedder            {model.name}, {len(classifier.examples)} examples of {len(classifier.names)} types"
    )
    print(f"build               {build_s * 1000:.0f} ms")
    print(
        f"batches of {BATCH}      {median(rates):,.0f} tasks/s, the median of {ROUNDS} rounds; least {min(rates):,.0f}"
    )
    print(f"processor time      {cpu_us:.0f} µs a task")
    print(f"single              p50 {median(singles):.3f} ms, p99 {cuts[98]:.3f} ms")
    print(f"peak memory         {megabytes():.0f} MB")


if __name__ == "__main__":
    main()
