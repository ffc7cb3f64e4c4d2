"""Programs in Pydantic's Monty: an interpreter without files, sockets and processes, in processes of its own.

Where the node has bubblewrap these are inside it too, so that a fault in the interpreter leads nowhere either.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sysconfig
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pydantic_monty import (
    CollectString,
    Monty,
    MontyCrashedError,
    MontyError,
    MontyRuntimeError,
    ResourceLimits,
)

from broker.errors import ToolError, ToolUnavailable
from workers.tools.bubblewrap import filter_program, machine, wrapped
from workers.tools.code import Limits, shown

log = logging.getLogger(__name__)
DEPTH = 500  # calls within calls
WAIT_S = 30.0  # for one of the processes to be free
SLACK_BYTES = 2**30  # addresses of the interpreter itself, of which most are never touched
BYTES_A_CHAR = 4


class MontyPython:
    told = (
        "most of Python, with json, re, math, datetime, decimal, csv, collections, itertools and functools; no other"
        " modules, no files, no network"
    )

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, ExitStack()
        path = shutil.which("monty", path=sysconfig.get_path("scripts")) or shutil.which("monty")
        if path is None:
            raise ToolUnavailable(
                "the program of pydantic-monty is not there", mend="pip install 'laneway[tools]'"
            )
        try:
            start = self._inside(Path(path))
        except ToolUnavailable as error:
            log.info("programs run in Monty's own sandbox alone: %s", error.message)
            start = Path(path)
        pool = Monty(binary_path=start, request_timeout=limits.seconds + 2, checkout_timeout=WAIT_S)
        try:
            self._pool = self._held.enter_context(pool)
        except (OSError, RuntimeError, MontyError) as error:
            self._held.close()
            raise ToolUnavailable(
                f"Monty does not start: {error}", mend="pip install 'laneway[tools]'"
            ) from error

    def run(self, program: str) -> str:
        limits = ResourceLimits(
            max_feed_duration_secs=self._limits.seconds,
            max_total_sleep_secs=self._limits.seconds,
            max_memory=self._limits.memory_bytes,
            max_recursion_depth=DEPTH,
        )
        printed = CollectString(max_bytes=self._limits.print_chars * BYTES_A_CHAR)
        try:
            with self._pool.checkout(limits=limits) as session:
                value = session.feed_run(program, print_callback=printed)
        except MontyCrashedError as error:
            failure = "tool_timeout" if error.timed_out else "tool_failed"
            raise ToolError(f"the program ended its interpreter: {error}", failure=failure) from error
        except MontyRuntimeError as error:
            late = isinstance(error.exception(), TimeoutError)
            raise ToolError(
                shown(printed.output, error.display("traceback")),
                failure="tool_timeout" if late else "tool_failed",
            ) from error
        except MontyError as error:
            raise ToolError(str(error)) from error
        except TimeoutError as error:
            raise ToolError("all interpreters are busy; try again later", failure="tool_hangs") from error
        return shown(
            printed.output, "" if value is None else value if isinstance(value, str) else repr(value)
        )

    def close(self) -> None:
        self._held.close()

    def _inside(self, path: Path) -> Path:
        """A script that starts it in bubblewrap. Raises ToolUnavailable where that cannot be."""
        folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="laneway-code-")))
        (folder / "filter").write_bytes(filter_program(machine(), threads=True))
        command = shlex.join(wrapped([str(path)], [path], filter_fd=9))
        addresses = (self._limits.memory_bytes * 2 + SLACK_BYTES) // 1024
        script = folder / "monty"
        # A shell between: bubblewrap dies with its parent, which would be whichever thread needed a new process.
        script.write_text(
            f"#!/bin/sh\nulimit -v {addresses}\n"
            f'{command} "$@" 9<{shlex.quote(str(folder / "filter"))}\nexit $?\n'
        )
        script.chmod(0o700)
        return script
