"""A small MCP server that goes wrong in the way that its first argument says; its second is a file of its deeds.

Written by hand over standard input and output, so that it can break every rule.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

WAY, DEEDS = sys.argv[1], Path(sys.argv[2])
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def answer(number: object, result: object) -> None:
    say(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}))


def note(what: str) -> None:
    with DEEDS.open("a") as deeds:
        deeds.write(f"{what}\n")


def called(number: object, name: str, arguments: dict[str, str]) -> None:
    note(name)
    if name == "die" or (name == "die_once" and DEEDS.read_text().count("die_once") == 1):
        os._exit(3)
    if name == "hang":
        time.sleep(600)
    if name == "slow":
        return  # and never an answer, though all others are given
    if name == "rubbish":
        say("\x00 this is no JSON {{{")
        answer("of nothing that was asked", {})
    if name == "long":
        arguments = {"word": "long " * 20_000}
    content = [
        {"type": "text", "text": arguments["word"]},
        {"type": "image", "data": "AA==", "mimeType": "image/png"},
    ]
    answer(number, {"content": content, "isError": name == "fail"})


def main() -> None:
    note(f"start {os.getpid()}")
    if WAY == "dumb":
        time.sleep(600)
    if WAY == "short":
        sys.exit("no licence")
    for line in sys.stdin:
        message = json.loads(line)
        number, method = message.get("id"), message["method"]
        if method == "initialize":
            info = {"name": "broken", "version": "1"}
            answer(
                number, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
            )
        elif method == "tools/list":
            names = ["say", "die", "die_once", "hang", "slow", "rubbish", "long", "fail"]
            hints = {"readOnlyHint": True, "destructiveHint": False}
            tools = [{"name": one, "inputSchema": SCHEMA, "annotations": hints} for one in names]
            answer(number, {"tools": tools})
        elif method == "tools/call":
            called(number, message["params"]["name"], message["params"]["arguments"])
        elif number is not None:
            error = {"code": -32601, "message": f"no {method}"}
            say(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}))


main()
