"""Tokens a second through a lane against the same engine driven by its own batch interface, and at 16 tasks against 1.

A lane is all of it: submit, dispatch, a worker process, the engine's process, result. Both sides are given the same
prompts in turn, and a ratio is the median of its pairs. What this machine has not got is left out and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.bench_path import dramatiq, fleet
from laneway.client import Client
from workers.engines.launcher import stop_all
from workers.engines.llamacpp import SPARE_SLOTS, packaged_model

ROOT = Path(__file__).parents[1]
PAIRS = 7
TASKS = 16
TOKENS = 128

Rate = Callable[[list[str]], float]


@dataclass(frozen=True, slots=True)
class Row:
    """``lacking`` is "" where this machine can run it. ``lane`` gives the lane's table for a model's folder, ``direct``
    an engine of its own that gives tokens a second for prompts.
    """

    lacking: Callable[[], str]
    model: Callable[[Path], Path]
    lane: Callable[[Path], str]
    direct: Callable[[Path], AbstractContextManager[Rate]]


def prompts(count: int, at: int) -> list[str]:
    """Others each time, so that no answer comes out of a cache."""
    return [
        f"question: tell a very long story about the sea and number {at * 1000 + n}." for n in range(count)
    ]


def through(client: Client, asked: list[str]) -> float:
    """Tokens a second of tasks that are submitted together."""
    before = perf_counter()
    handles = client.submit_many([{"prompt": prompt} for prompt in asked])
    for handle in handles:
        handle.result(timeout_s=600)
    seconds = perf_counter() - before
    attempts = [client.record(handle.task_id).progress.attempts for handle in handles]
    return sum(one.output_tokens for each in attempts for one in each) / seconds


@contextmanager
def told(command: list[str | Path], environment: dict[str, str]) -> Iterator[Rate]:
    """A process that answers a line of prompts with ``rate`` and its tokens a second."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked_of, heard = process.stdin, process.stdout

        def rate(asked: list[str]) -> float:
            asked_of.write(json.dumps(asked) + "\n")
            asked_of.flush()
            line = next(line for line in heard if line.startswith("rate "))
            return float(line.split()[1])

        yield rate
        asked_of.close()


def converted(folder: Path) -> Path:
    """The small packaged model as a folder."""
    packed = packaged_model()
    assert packed is not None
    import_module("workers.engines.gguf_folder").convert(packed, folder / "smollm2")
    return folder / "smollm2"


# --- vLLM

VLLM = Path(os.environ.get("VLLM_PYTHON") or ROOT / ".venv-vllm/bin/python")
KV_BYTES = 2**29
#: A process with vLLM's offline interface: a line of prompts in, tokens a second out.
OFFLINE = """
import json, sys, time
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(model=sys.argv[1], max_model_len=1024, enforce_eager=True, kv_cache_memory_bytes=int(sys.argv[2]))
    for line in sys.stdin:
        asked = [[{"role": "user", "content": prompt}] for prompt in json.loads(line)]
        before = time.perf_counter()
        done = llm.chat(asked, SamplingParams(temperature=0, max_tokens=int(sys.argv[3])), use_tqdm=False)
        seconds = time.perf_counter() - before
        print("rate", sum(len(one.outputs[0].token_ids) for one in done) / seconds, flush=True)
"""


def vllm_lacking() -> str:
    return "" if VLLM.exists() else "no vLLM: make vllm-venv, or VLLM_PYTHON=/path/to/a/python/that/has/it"


def vllm_lane(model: Path) -> str:
    return f"""
engine = "vllm"
model_path = "{model}"
vllm = {{ python = "{VLLM}", arguments = ["--kv-cache-memory-bytes", "{KV_BYTES}"] }}
"""


@contextmanager
def vllm_direct(model: Path) -> Iterator[Rate]:
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    with told([VLLM, "-c", OFFLINE, model, str(KV_BYTES), str(TOKENS)], quiet) as rate:
        yield rate


# --- MLX

#: A process with mlx-lm's batch generator, driven as fast as it goes: a line of prompts in, tokens a second out. It
#: loads OpenBLAS as the engine's own process does, and need not read again either what all prompts begin with.
GENERATOR = """
import json, sys, time
from workers.engines.mlx_process import load_openblas
load_openblas(int(sys.argv[2]))
from mlx_lm import load
from mlx_lm.generate import BatchGenerator
from workers.engines.mlx_batch import KnownPrompts
model, tokenizer = load(sys.argv[1])
ends = [[end] for end in tokenizer.eos_token_ids]
known = KnownPrompts(model)
for line in sys.stdin:
    asked = [
        list(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True))
        for prompt in json.loads(line)
    ]
    generator = BatchGenerator(
        model, stop_tokens=ends, completion_batch_size=len(asked), prefill_batch_size=len(asked)
    )
    before = time.perf_counter()
    caches, rests = zip(*map(known.find, asked))
    generator.insert(
        list(rests),
        max_tokens=[int(sys.argv[3])] * len(asked),
        caches=list(caches),
        all_tokens=[prompt[: len(prompt) - len(rest)] for prompt, rest in zip(asked, rests)],
    )
    made = 0
    while answers := generator.next_generated():
        made += len(answers)
        for one in answers:
            if one.finish_reason:
                known.keep(one.all_tokens, one.prompt_cache, "assistant")
    print("rate", made / (time.perf_counter() - before), flush=True)
"""


def mlx_lacking() -> str:
    return "" if find_spec("mlx_lm") and find_spec("llguidance") else "no mlx: pip install 'laneway[mlx]'"


def mlx_lane(model: Path) -> str:
    return f'engine = "mlx"\nmodel_path = "{model}"\n'


@contextmanager
def mlx_direct(model: Path) -> Iterator[Rate]:
    threads = max(1, (os.cpu_count() or 1) - 1)
    with told([sys.executable, "-c", GENERATOR, str(model), str(threads), str(TOKENS)], {}) as rate:
        yield rate


# --- llama.cpp

#: A process with llama.cpp's own server in it, set up as the engine's own process is and given all prompts in one
#: request, which it runs as one batch of its slots.
SERVER = """
import json, sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
slots = int(sys.argv[3])
params.n_parallel = slots
params.n_ctx = 1024 * slots
params.n_batch = params.n_ubatch = 256
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.cache_ram_mib = 0
params.verbosity = 0
server = xllamacpp.Server(params)
for line in sys.stdin:
    asked = [f"<|im_start|>user\\n{prompt}<|im_end|>\\n<|im_start|>assistant\\n" for prompt in json.loads(line)]
    before = time.perf_counter()
    tokens = int(sys.argv[4])
    server.handle_completions({"prompt": asked, "max_tokens": tokens, "temperature": 0, "ignore_eos": True})
    print("rate", tokens * len(asked) / (time.perf_counter() - before), flush=True)
"""


def llamacpp_lacking() -> str:
    return "" if find_spec("xllamacpp") and packaged_model() else "no llama.cpp: pip install 'laneway[cpu]'"


def llamacpp_lane(model: Path) -> str:
    return f'engine = "llamacpp"\nmodel_path = "{model}"\n'


def packaged(folder: Path) -> Path:
    packed = packaged_model()
    assert packed is not None
    return packed


@contextmanager
def llamacpp_direct(model: Path) -> Iterator[Rate]:
    threads = max(1, (os.cpu_count() or 1) - 1)
    slots = TASKS + SPARE_SLOTS
    with told([sys.executable, "-c", SERVER, str(model), str(threads), str(slots), str(TOKENS)], {}) as rate:
        yield rate


ROWS = {
    "llamacpp": Row(llamacpp_lacking, packaged, llamacpp_lane, llamacpp_direct),
    "vllm": Row(vllm_lacking, converted, vllm_lane, vllm_direct),
    "mlx": Row(mlx_lacking, converted, mlx_lane, mlx_direct),
}


# --- the run


def measured(row: Row, folder: Path, pairs: int) -> list[tuple[float, float, float]]:
    """Tokens a second of 16 tasks through the lane, of as many prompts given to the engine, and of one task."""
    model = row.model(folder)
    toml = f"""
[fleet]
var = "{folder / "var"}"
[lanes.local]
{row.lane(model)}
context_tokens = 1024
max_tokens = {TOKENS}
threads = {TASKS}
timeout_s = 300
[types.general]
chain = ["local"]
"""
    lane = dramatiq("workers.lane_local", threads=2 * TASKS)
    try:
        with row.direct(model) as direct, fleet(toml, dramatiq("dispatcher.node", threads=2), lane) as client:
            through(client, prompts(TASKS, 0))
            direct(prompts(TASKS, 0))
            return [
                (
                    through(client, prompts(TASKS, 2 * at)),
                    direct(prompts(TASKS, 2 * at)),
                    through(client, prompts(1, 2 * at + 1)),
                )
                for at in range(1, pairs + 1)
            ]
    finally:
        stop_all(folder / "var")


def main(pairs: int = PAIRS) -> None:
    for name in sys.argv[1:] or ROWS:
        if lacking := ROWS[name].lacking():
            print(f"{name}: left out, {lacking}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = measured(ROWS[name], Path(folder), pairs)
        lane, direct, alone = (median(column) for column in zip(*found, strict=True))
        print(
            f"{name}: {TASKS} tasks through a lane {lane:.0f} tokens/s,"
            f" {median(a / b for a, b, _ in found):.2f} x its own batch interface ({direct:.0f}),"
            f" {median(a / c for a, _, c in found):.1f} x one task ({alone:.0f}); {pairs} interleaved pairs"
        )


if __name__ == "__main__":
    main()
