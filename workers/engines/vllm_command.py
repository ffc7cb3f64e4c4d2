"""How vLLM is started: from an order to a command line and an environment, pure.

An order is what ``vllm.py`` sends to ``vllm_process.py``: ``python`` (the interpreter that has vLLM), ``model`` (the
name that calls use), ``weights`` (a folder, or a name that vLLM looks up by itself), ``local`` (it is a folder),
``context_tokens``, ``accelerator`` (this node has one), ``kv_bytes`` and ``cpu_threads`` (None: vLLM's own choice),
``in_flight`` (calls at once), ``tool_parser`` ("": no tools) and ``arguments``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

INSIDE = Path(__file__).with_name("vllm_inside.py")
KEEP_ALIVE_S = 75  # vLLM's own 5 s close a connection just when the client's pool takes it again
LOG_STATS_S = 3600  # by itself it writes a line each ten seconds for as long as it works

#: After the first token: nobody reads along, and each piece costs its server as much as a small model's token does.
TOKENS_A_PIECE = 8

Order = Mapping[str, Any]


def serving(order: Order, port: int) -> list[str]:
    """The OpenAI-compatible server on a loopback port."""
    return [
        *_run(order, "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--middleware", "__main__.KeyOnEveryPath"),
        *(
            "--max-num-queued-reqs",
            str(order["in_flight"]),
        ),  # beyond that 503, in place of a queue without an end
        *("--stream-interval", str(TOKENS_A_PIECE)),
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *_engine(order),
    ]


def batch(order: Order, source: Path, target: Path) -> list[str]:
    """The offline batch: requests from ``source``, all of the answers into ``target`` when the last one is there."""
    return [
        *_run(order, "vllm.entrypoints.openai.run_batch"),
        *("-i", str(source), "-o", str(target)),
        *_engine(order),
    ]


def environment(order: Order) -> dict[str, str]:
    """What vLLM finds beside the environment of the process that starts it."""
    threads = order["cpu_threads"]
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # what its own processes talk over
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
        "VLLM_LOG_STATS_INTERVAL": str(LOG_STATS_S),
        **({"HF_HUB_OFFLINE": "1"} if order["local"] else {}),
        **({"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)} if threads else {}),
        **({"VLLM_API_KEY": order["key"]} if "key" in order else {}),
    }


def _run(order: Order, module: str) -> list[str]:
    return [order["python"], "-P", str(INSIDE), module]


def _engine(order: Order) -> list[str]:
    """What server and batch share. The lane's own arguments come last, and so win."""
    kv_bytes, parser = order["kv_bytes"], order["tool_parser"]
    # Compiling pays where a GPU runs what comes of it; on a CPU it takes minutes of the start.
    eager = [] if order["accelerator"] else ["--enforce-eager"]
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", parser, "--tool-strict-level", "parameter"]
    return [
        *("--model", order["weights"], "--served-model-name", order["model"]),
        *("--max-model-len", str(order["context_tokens"])),
        *("--scheduling-policy", "priority"),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",  # else no usage names its cached tokens
        *eager,
        *(["--kv-cache-memory-bytes", str(kv_bytes)] if kv_bytes else []),
        *(tools if parser else []),
        *order["arguments"],
    ]


def kv_bytes(config: Mapping[str, Any], tokens: int) -> int | None:
    """What keys and values of ``tokens`` take in memory, by the model's ``config.json``; None where it does not say.

    Two bytes a number: vLLM computes in 16 bits on a CPU. Without a bound it takes nearly all of the machine's memory.
    """
    try:
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        keys = config.get("num_key_value_heads") or heads
        return int(2 * 2 * config["num_hidden_layers"] * keys * size * tokens)
    except (KeyError, TypeError):
        return None
