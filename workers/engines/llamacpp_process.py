"""``python -m workers.engines.llamacpp_process``: the process that owns a llama.cpp model.

Started by ``launcher.py``. Serves llama.cpp's own OpenAI-compatible server on a free loopback port.
"""

from __future__ import annotations

from typing import Any

import xllamacpp

from workers.engines.resident import live

_servers: list[Any] = []  # a server ends with its last reference


def serve(order: dict[str, Any]) -> tuple[int, str]:
    params = xllamacpp.CommonParams()
    params.model.path = order["model_path"]
    params.model_alias = {order["model"]}
    params.n_parallel = order["slots"]
    params.n_ctx = order["context_tokens"] * order["slots"]  # llama.cpp shares it out among the slots
    params.n_batch = params.n_ubatch = 256  # one long prompt holds up the other slots for one batch at most
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["cpu_threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["key"]]
    params.endpoint_slots = True
    params.ui = False
    params.cache_ram_mib = 0  # by default it keeps up to 8 GB of old prompts
    params.verbosity = 2  # warnings; the levels above log prompts
    server = xllamacpp.Server(params)
    _servers.append(server)
    return int(server.listening_address.rpartition(":")[2]), ""


if __name__ == "__main__":
    live(serve)
