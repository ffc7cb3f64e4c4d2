"""vLLM's offline batch: lines of an OpenAI batch file in, a line out for each of them, in no order.

It starts a vLLM of its own, which works off what it is given and ends: for bulk work on a node whose accelerator is
free.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.settings.lanes import Lane
from workers.engines.vllm import order_of
from workers.engines.vllm_command import batch, environment
from workers.engines.vllm_process import end, start

URL = "/v1/chat/completions"
#: vLLM writes its answers when the last one is there, so this many is what a run that is lost costs.
LINES_A_RUN = 10_000
POLL_S = 0.2
LOG_TAIL = 20_000
#: In the end of a log only the class of an exception is safe to repeat: its text may hold a piece of a prompt.
EXCEPTION = re.compile(rb"^(?:\([^)]*\) )?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt))\b", re.MULTILINE)

Line = Mapping[str, Any]


def run_batch(
    lane_name: str,
    lane: Lane,
    lines: Sequence[Line],
    folder: Path,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    lines_a_run: int = LINES_A_RUN,
) -> Iterator[dict[str, Any]]:
    """A line of an OpenAI batch's output for each of ``lines``, given as their runs end.

    What vLLM itself refuses has its HTTP status. A line without an answer has no ``response``, and the code of its
    ``error`` is ``invalid_request`` (it is no line of a batch file, and was not sent), ``engine_lost`` (its run ended
    without an answer to it), ``malformed_reply`` or ``cancelled``. While a run takes, ``folder`` holds its prompts and
    answers, readable by this user only.

    Raises EngineUnavailable, before anything is run, where this node lacks something for it.
    """
    order = order_of(lane_name, lane)
    folder.mkdir(parents=True, exist_ok=True)
    sound: dict[str, Line] = {}
    for line in lines:
        if fault := _fault(line, sound):
            yield _unanswered(line, "invalid_request", fault)
        else:
            sound[line["custom_id"]] = line
    waiting = list(sound.values())
    for first in range(0, len(waiting), lines_a_run):
        yield from _run(order, waiting[first : first + lines_a_run], folder, cancelled)


def _fault(line: Line, known: Mapping[str, Line]) -> str:
    """Why this is no line that vLLM takes, "" for nothing: it ends a whole run over the first one that is none."""
    custom_id, body = line.get("custom_id"), line.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return "it has no custom_id"
    if custom_id in known:
        return "its custom_id stands twice"
    if line.get("method") != "POST" or line.get("url") != URL:
        return f"it is no POST to {URL}"
    if not isinstance(body, Mapping) or not isinstance(body.get("messages"), list | tuple):
        return "its body has no messages"
    return "its body asks for a stream" if body.get("stream") else ""


def _run(
    order: Mapping[str, Any], lines: Sequence[Line], folder: Path, cancelled: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="vllm-batch-", dir=folder) as name:
        source, target, log = (Path(name, one) for one in ("in.jsonl", "out.jsonl", "log"))
        source.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        code, why = ("cancelled", "nobody wants its answer") if cancelled() else ("", "")
        if not code:
            code, why = _ended(order, source, target, log, cancelled)
        answers = dict(_answers(target))
    for line in lines:
        yield answers.get(line["custom_id"]) or _unanswered(line, code, why)


def _ended(
    order: Mapping[str, Any], source: Path, target: Path, log: Path, cancelled: Callable[[], bool]
) -> tuple[str, str]:
    """Run it to its end: the code and the reason for the lines that it leaves without an answer."""
    with log.open("wb") as out:
        child = start(batch(order, source, target), environment(order), out)
        try:
            while not (stopped := cancelled()) and child.poll() is None:
                time.sleep(POLL_S)
        finally:
            end(child)
    if stopped:
        return "cancelled", "nobody wants its answer"
    return "engine_lost", f"vLLM ended with code {child.returncode}{_exception(log)}"


def _exception(log: Path) -> str:
    found = EXCEPTION.findall(log.read_bytes()[-LOG_TAIL:])
    return f" by {found[-1].decode()}" if found else ""


def _answers(target: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the run has written. The last line may be half of one, where it was killed over it."""
    if not target.exists():
        return
    with target.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("custom_id"), str):
                yield line["custom_id"], _in_openais_form(line)


def _in_openais_form(line: dict[str, Any]) -> dict[str, Any]:
    """vLLM's line with what it refused where OpenAI has it: as the body of a response."""
    match line:
        case {"response": {"status_code": int(), "body": dict()}, "error": None}:
            return line
        case {"response": {"status_code": int()} as response, "error": {"error": dict()} as refusal}:
            return line | {"response": response | {"body": refusal}, "error": None}
        case {"response": {"status_code": int()} as response, "error": str(message)}:
            return line | {"response": response | {"body": {"error": {"message": message}}}, "error": None}
    return _unanswered(line, "malformed_reply", "vLLM's line has neither an answer nor an error")


def _unanswered(line: Line, code: str, message: str) -> dict[str, Any]:
    return {"custom_id": line.get("custom_id"), "response": None, "error": {"code": code, "message": message}}
