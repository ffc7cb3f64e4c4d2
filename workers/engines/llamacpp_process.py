"""The process that owns a llama.cpp model: started by ``llamacpp_server``, run as a script, knows nothing of Laneway.

Reads its order as JSON on standard input, serves llama.cpp's own OpenAI-compatible server on a free loopback port, says
where in its state file, and ends by SIGTERM or when no worker has held its ``users`` lock for ``idle_s`` seconds.
"""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import xllamacpp

CHECK_S = 0.5


def serve(order: dict) -> xllamacpp.Server:  # type: ignore[type-arg]
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
    return xllamacpp.Server(params)


def announce(state: Path, order: dict, address: str) -> None:  # type: ignore[type-arg]
    told = {
        "pid": os.getpid(),
        "port": int(address.rpartition(":")[2]),
        "key": order["key"],
        "model": order["model"],
    }
    draft = state.with_suffix(f".{os.getpid()}.tmp")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(told), encoding="utf-8")
    draft.rename(state)


def hold(alive: Path) -> None:
    """Lock ``alive`` for the life of this process, with our pid in it."""
    descriptor = os.open(alive, os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(100):  # somebody may just be asking whether it is locked
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return
        time.sleep(0.02)
    sys.exit(f"{alive} is locked by process {alive.read_text() or 'unknown'}")


def wait_until_unused(users: int, idle_s: float, stop: threading.Event) -> None:
    """Each worker holds ``users`` shared, and the kernel lets go of it for a worker that died."""
    unused_s = 0.0
    while not stop.wait(CHECK_S):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unused_s = 0.0
            continue
        unused_s += CHECK_S
        if unused_s >= idle_s:
            return  # still locked: whoever comes now waits until we are gone
        fcntl.flock(users, fcntl.LOCK_UN)


def main() -> None:
    order = json.load(sys.stdin)
    state = Path(order["state"])
    hold(state.with_suffix(".alive"))
    users = os.open(state.with_suffix(".users"), os.O_CREAT | os.O_RDWR, 0o600)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve(order)
    announce(state, order, server.listening_address)
    wait_until_unused(users, order["idle_s"], stop)
    with contextlib.suppress(FileNotFoundError):
        state.unlink()


if __name__ == "__main__":
    main()
