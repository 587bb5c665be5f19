"""The checks of a corpus, each made from outside: a function that says what is wrong, or "" if nothing is."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import glob
import os
import re
import socket
import stat
import struct
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otpd.agents.sandbox import Result
from tests.sandbox.stage import Sampler, Stage, Victim

Check = dict[str, Any]


@dataclass
class Evidence:
    """What the checks of one case look at."""

    stage: Stage
    victim: Victim
    terminal: int
    stdin_flags: int
    sysvipc: list[str] = field(default_factory=list)
    result: Result | None = None
    sampler: Sampler | None = None
    wall: float = 0.0

    @property
    def text(self) -> str:
        assert self.result is not None
        return (self.result.stdout + self.result.stderr).decode(errors="replace")


def failed(checks: list[Check], evidence: Evidence, *, during: bool) -> Iterator[str]:
    for check in checks:
        if check["kind"].startswith("during_") is during:
            wrong = KINDS[check["kind"]](check, evidence)
            if wrong:
                yield f"{check['kind']}: {wrong}"


def _no_output(check: Check, seen: Evidence) -> str:
    return f"{check['text']!r} was printed" if check["text"] in seen.text else ""


def _output_has(check: Check, seen: Evidence) -> str:
    return "" if check["text"] in seen.text else f"{check['text']!r} was not printed"


def _no_output_re(check: Check, seen: Evidence) -> str:
    found = re.search(check["re"], seen.text)
    return f"{found[0]!r} was printed" if found else ""


def _max_tasks(check: Check, seen: Evidence) -> str:
    assert seen.sampler is not None
    return "" if seen.sampler.tasks < check["n"] else f"{seen.sampler.tasks} tasks"


def _peak_memory(check: Check, seen: Evidence) -> str:
    assert seen.sampler is not None
    return "" if seen.sampler.memory < check["mb"] * 2**20 else f"{seen.sampler.memory >> 20} MiB"


def _wall(check: Check, seen: Evidence) -> str:
    return "" if seen.wall < check["s"] else f"{seen.wall:.1f} s"


def _output_size(check: Check, seen: Evidence) -> str:
    assert seen.result is not None
    size = len(seen.result.stdout) + len(seen.result.stderr)
    return "" if size < check["n"] else f"{size} bytes"


def _absent(check: Check, seen: Evidence) -> str:
    return "it exists" if os.path.lexists(check["path"]) else ""


def _glob_absent(check: Check, seen: Evidence) -> str:
    found = glob.glob(check["glob"])
    return f"{found[0]} exists" if found else ""


def _equals(check: Check, seen: Evidence) -> str:
    try:
        found = Path(check["path"]).read_text()
    except OSError as error:
        return str(error)
    return "" if found.strip() == check["text"].strip() else f"it holds {found[:80]!r}"


def _links(check: Check, seen: Evidence) -> str:
    found = os.stat(check["path"]).st_nlink
    return "" if found == check.get("n", 1) else f"{found} links"


def _disk(check: Check, seen: Evidence) -> str:
    total = sum(os.lstat(path).st_blocks * 512 for path in _beneath(check["path"]))
    return "" if total < check["mb"] * 2**20 else f"{total >> 20} MiB"


def _beneath(path: str) -> Iterator[str]:
    for place, directories, files in os.walk(path):
        yield from (os.path.join(place, name) for name in (*directories, *files))


def _heartbeat(check: Check, seen: Evidence) -> str:
    """A stray process would go on touching the file. One that is just being killed may have a moment."""
    path = check["file"]
    if not os.path.exists(path):
        return "no heartbeat at all"
    for _ in range(5):
        before = _stamp(path)
        time.sleep(0.3)
        if _stamp(path) == before:
            return ""
    return "it still changes"


def _stamp(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_mtime_ns, about.st_size


def _victim(check: Check, seen: Evidence) -> str:
    return seen.victim.ok()


def _no_connection(check: Check, seen: Evidence) -> str:
    return "somebody was there" if check["who"] in seen.stage.listeners.reached else ""


def sysvipc() -> list[str]:
    """What there is of System V IPC on this machine: keys and ids."""
    found = []
    for name in ("shm", "msg", "sem"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/sysvipc/{name}").read_text().splitlines()[1:]
            found += [f"{name} {' '.join(line.split()[:2])}" for line in lines]
    return sorted(found)


def _sysvipc(check: Check, seen: Evidence) -> str:
    new = set(sysvipc()) - set(seen.sysvipc)
    return f"new: {sorted(new)}" if new else ""


def _queue_absent(check: Check, seen: Evidence) -> str:
    name = check.get("name") or check.get("path", "").replace("/dev/mqueue", "")
    opened = ctypes.CDLL("librt.so.1").mq_open(("/" + name.lstrip("/")).encode(), os.O_RDONLY)
    return "the queue exists" if opened >= 0 else ""


def _result(check: Check, seen: Evidence) -> str:
    assert seen.result is not None
    table = seen.result.to_dict()
    wrong = {key: table.get(key) for key, value in check.items() if key != "kind" and table.get(key) != value}
    return f"it has {wrong}" if wrong else ""


def _status(check: Check, seen: Evidence) -> str:
    assert seen.result is not None
    return "" if seen.result.status in check["in"] else f"it is {seen.result.summary()}"


def _stdout(check: Check, seen: Evidence) -> str:
    assert seen.result is not None
    return "" if seen.result.stdout == base64.b64decode(check["b64"]) else f"it is {seen.result.stdout[:80]!r}"


def _none_of(kinds: Callable[[int], bool]) -> Callable[[Check, Evidence], str]:
    def check(check: Check, seen: Evidence) -> str:
        found = [path for path in _beneath(check["path"]) if kinds(os.lstat(path).st_mode)]
        return f"{found[0]} is there" if found else ""

    return check


def _owner(check: Check, seen: Evidence) -> str:
    path = check["path"]
    paths = [path, *_beneath(path)] if os.path.isdir(path) else [path]
    found = [each for each in paths if os.path.lexists(each) and os.lstat(each).st_uid == 0]
    return f"{found[0]} belongs to root" if found else ""


def _not_mounted(check: Check, seen: Evidence) -> str:
    return "it is mounted" if f" {check['path']} " in Path("/proc/self/mountinfo").read_text() else ""


def _terminal(check: Check, seen: Evidence) -> str:
    waiting = struct.unpack("i", fcntl.ioctl(seen.terminal, termios.FIONREAD, bytes(4)))[0]
    return f"{waiting} bytes were typed into it" if waiting else ""


def _stdin_flags(check: Check, seen: Evidence) -> str:
    return "" if fcntl.fcntl(0, fcntl.F_GETFL) == seen.stdin_flags else "they have changed"


def _tmp_clean(check: Check, seen: Evidence) -> str:
    found = [
        os.path.join(place, name) for place in ("/tmp", "/var/tmp") for name in os.listdir(place) if seen.stage.token in name
    ]
    return f"{found[0]} is left" if found else ""


def _inotify(check: Check, seen: Evidence) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    watched = libc.inotify_add_watch(fd, b"/tmp", 0x100)
    os.close(fd)
    return "" if watched >= 0 else "no watch could be added"


def _refused(check: Check, seen: Evidence) -> str:
    try:
        socket.create_connection(("127.0.0.1", int(check["port"])), 1).close()
    except OSError:
        return ""
    return "it listens where everybody reaches it"


def _flock(check: Check, seen: Evidence) -> str:
    path = check.get("path") or check.get("file") or str(seen.stage.read_only / "lockme")
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "it is locked"
    return ""


KINDS: dict[str, Callable[[Check, Evidence], str]] = {
    "no_output": _no_output, "output_has": _output_has, "no_output_re": _no_output_re, "max_tasks_below": _max_tasks,
    "peak_mem_below": _peak_memory, "wall_below": _wall, "out_bytes_below": _output_size, "file_absent": _absent,
    "glob_absent": _glob_absent, "file_equals": _equals, "nlink": _links, "disk_below": _disk,
    "heartbeat_stopped": _heartbeat,
    "victim_ok": _victim, "no_conn": _no_connection, "sysvipc_unchanged": _sysvipc, "mq_absent": _queue_absent,
    "result": _result, "result_status_in": _status, "stdout_b64": _stdout, "owner_not_root": _owner,
    "not_mounted": _not_mounted, "tty_clean": _terminal, "stdin_flags_unchanged": _stdin_flags, "tmp_clean": _tmp_clean,
    "during_inotify_ok": _inotify, "during_tcp_refused": _refused, "during_flock_free": _flock,
    "no_setuid": _none_of(lambda mode: stat.S_ISREG(mode) and bool(mode & (stat.S_ISUID | stat.S_ISGID))),
    "no_devices": _none_of(lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode)),
    "no_fifo": _none_of(stat.S_ISFIFO),
}  # fmt: skip
