"""Programs in this node's own Python with its packages, in bubblewrap: one process a run, which ends with it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from broker.errors import ToolError
from workers.tools.bubblewrap import TMP_BYTES, filter_program, machine, wrapped
from workers.tools.code import Limits

#: What the process does before the program: give up what it may not have, for good. Its arguments are bytes of memory
#: and of files, and seconds of processor time.
PRELUDE = """\
import ast, resource, sys
memory, size, seconds = map(int, sys.argv[1:4])
for what, limit in ((resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0),
                    (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_AS, memory)):
    resource.setrlimit(what, (limit, limit))
sys.argv[:] = ["program.py"]
tree = ast.parse(sys.stdin.read(), "program.py")
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
names = {"__name__": "__main__"}
exec(compile(tree, "program.py", "exec"), names)
if last is not None:
    value = eval(compile(ast.Expression(last.value), "program.py", "eval"), names)
    if value is not None:
        print(value if isinstance(value, str) else repr(value))
"""
SLACK_BYTES = 256 * 2**20  # addresses of Python itself and its libraries, of which most are never touched
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class CPython:
    told = "Python with its standard library and the packages of this machine; no files, no network, no processes"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._filter = filter_program(machine(), threads=False)
        self._see = _python()

    def run(self, program: str) -> str:
        reading, writing = os.pipe()
        os.write(writing, self._filter)  # fits into a pipe
        os.close(writing)
        memory = self._limits.memory_bytes + SLACK_BYTES
        given = [str(memory), str(TMP_BYTES), str(math.ceil(self._limits.seconds) + 1)]
        command = [sys.executable, "-I", "-B", "-c", PRELUDE, *given]
        with tempfile.TemporaryFile() as printed:
            try:
                ended = subprocess.run(
                    wrapped(command, self._see, filter_fd=reading, environment=ONE_THREAD),
                    input=program.encode("utf-8", "replace"),
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                    pass_fds=[reading],
                    timeout=self._limits.seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise ToolError(
                    f"it took more than {self._limits.seconds:g} s", failure="tool_timeout"
                ) from error
            finally:
                os.close(reading)
            printed.seek(0)
            text = printed.read(self._limits.print_chars * 4).decode(errors="replace")
        if ended.returncode:
            raise ToolError(_last(text, self._limits.print_chars) or f"it ended with {ended.returncode}")
        return text

    def close(self) -> None:
        pass


def _python() -> list[Path]:
    """Where this Python and its packages are, beside /usr."""
    places = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix)} | {Path(sys.prefix)}
    return sorted(place for place in places if not place.is_relative_to("/usr"))


def _last(text: str, most: int) -> str:
    """The end of it, where the exception stands."""
    return text if len(text) <= most else f"…{text[-most:]}"
