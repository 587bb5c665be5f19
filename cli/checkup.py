"""What `otpd doctor` finds: one Finding per question, each ok, warn or fail, with advice where it is not ok."""

from __future__ import annotations

import ctypes
import enum
import os
import resource
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from otpd.cli.client import connect, lock_holder
from otpd.cli.context import Context
from otpd.cli.failures import Failure
from otpd.cli.words import count, duration, when
from otpd.ipc.control import ControlError, NotRunning
from otpd.supervisor import linux
from otpd.supervisor.paths import SOCKET_PATH_LIMIT, NodePaths, PathError
from otpd.supervisor.problems import ConfigErrors

_PR_GET_CHILD_SUBREAPER: Final = 37
#: Descriptors of root besides those of workers, and per worker (pidfd, channel, both ends of its pipe, cgroup).
_BASE_FILES: Final = 64
_FILES_PER_CHILD: Final = 5


class Level(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    level: Level
    what: str
    advice: str = ""
    details: tuple[str, ...] = ()  # lines of a table


def examine(context: Context) -> Iterator[Finding]:
    """Everything, cheapest first."""
    yield kernel(os.uname().sysname, os.uname().release)
    yield python(sys.version_info[:3])
    yield pidfd()
    yield subreaper()
    yield cgroups()
    yield oom_kills()
    yield proc()
    yield clock()
    paths, found = _locate(context)
    yield found
    node = None
    if paths is not None:
        yield directory("state directory", paths.state_dir)
        yield directory("runtime directory", paths.runtime_dir)
        yield socket_path(paths)
        found, node = running(paths)
        yield found
        from otpd.cli import storecheck

        yield storecheck.examine(paths.state_dir)
    if node is not None:
        yield Finding("ownership", Level.OK, f"workers are owned by {node.get('ladder', 'an unknown way')}")
    yield files(int((node or {}).get("children", 0)))
    yield processes()
    yield from commands(context)


def kernel(system: str, release: str) -> Finding:
    if system != "Linux" or linux.kernel_version(release) < linux.MINIMUM_KERNEL:
        return Finding("kernel", Level.FAIL, f"{system} {release}", "otpd needs Linux 5.10 or newer")
    return Finding("kernel", Level.OK, f"{system} {release}")


def python(version: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("python", Level.FAIL, text, "otpd needs Python 3.11 or newer")
    return Finding("python", Level.OK, f"{text}, {sys.executable}")


def pidfd() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return Finding("pidfd", Level.FAIL, f"pidfd_open: {error.strerror}", "a seccomp filter may forbid it; allow it")
    return Finding("pidfd", Level.OK, "deaths are seen by pidfd")


def subreaper() -> Finding:
    value = ctypes.c_int()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0) != 0:
        return Finding("subreaper", Level.FAIL, "prctl is refused", "a seccomp filter may forbid it; allow it")
    return Finding("subreaper", Level.OK, "orphans come to heart and root")


def cgroups() -> Finding:
    from otpd.supervisor import cgroup

    found = cgroup.probe()
    if found.directory is None:
        return Finding(
            "cgroup", Level.WARN, f"not used: {found.why}",
            "sessions, subreaper and cookies own the workers; a helper that leaves its session and empties its "
            "environment can only be found through a delegated cgroup v2",
        )  # fmt: skip
    left = cgroup.abandoned()
    stale = f"; {count(len(left), 'group')} of killed command workers, which the next start removes" if left else ""
    return Finding("cgroup", Level.OK, found.why + stale)


def oom_kills() -> Finding:
    from otpd.supervisor.oom import OomWatch

    watch = OomWatch.open()
    if watch.log >= 0:
        os.close(watch.log)
        return Finding("oom", Level.OK, "a child that the kernel kills for want of memory is named by the kernel's log")
    if watch.own is not None:
        return Finding("oom", Level.OK, f"OOM kills in this cgroup are counted: {watch.own.path}")
    return Finding(
        "oom", Level.WARN, "that the kernel killed a child for want of memory can only be guessed",
        "run the node as root, in a cgroup with the memory controller, or set kernel.dmesg_restrict = 0",
    )  # fmt: skip


def proc() -> Finding:
    try:
        visible = Path("/proc/1/stat").exists() and Path("/proc/self/stat").exists()
    except OSError:
        visible = False
    if not visible:
        return Finding("/proc", Level.FAIL, "not mounted, or hidepid hides processes", "mount it: sweeps need it")
    return Finding("/proc", Level.OK, "mounted")


def clock() -> Finding:
    now = time.time()
    if not 1.7e9 < now < 4e9:
        return Finding("clock", Level.WARN, f"the wall clock says {when(now)}", "records will have this time; set it")
    return Finding("clock", Level.OK, f"{when(now)}, up {duration(time.clock_gettime(time.CLOCK_BOOTTIME))}")


def directory(what: str, path: Path) -> Finding:
    """It is ours alone and can be written, or can be made."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _can_be_made(what, path)
    except OSError as error:
        return Finding(what, Level.FAIL, f"{path}: {error.strerror}", "choose another place")
    mode = stat.filemode(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return Finding(what, Level.FAIL, f"{path} is no directory ({mode})", "remove it or choose another place")
    if found.st_uid != os.geteuid():
        return Finding(what, Level.FAIL, f"{path} belongs to uid {found.st_uid}", f"run otpd as uid {found.st_uid}")
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding(what, Level.FAIL, f"{path} can't be written ({mode})", f"chmod 700 {path}; is it mounted read-only?")
    if found.st_mode & 0o077:
        return Finding(what, Level.WARN, f"{path} is open to others ({mode})", f"chmod 700 {path}")
    return Finding(what, Level.OK, f"{path} ({mode}), {_room(path)}")


def _can_be_made(what: str, path: Path) -> Finding:
    parent = next(each for each in path.parents if each.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        return Finding(what, Level.FAIL, f"{path} can't be made: {parent} can't be written", "choose another place")
    return Finding(what, Level.OK, f"{path}, to be made by the first start")


def _room(path: Path) -> str:
    free = os.statvfs(path)
    return f"{free.f_bavail * free.f_frsize // 2**20} MiB free"


def socket_path(paths: NodePaths) -> Finding:
    length = len(os.fsencode(paths.control))
    level = Level.OK if length <= SOCKET_PATH_LIMIT else Level.FAIL
    advice = "" if level is Level.OK else "set XDG_RUNTIME_DIR to a shorter path"
    return Finding("socket path", level, f"{length} of {SOCKET_PATH_LIMIT} bytes", advice)


def running(paths: NodePaths) -> tuple[Finding, dict[str, Any] | None]:
    """The node, or what an earlier one has left."""
    holder = lock_holder(paths)
    try:
        with connect(paths, grace=0) as control:
            node: dict[str, Any] = control.ask("node", timeout=3.0)
    except NotRunning:
        return _no_answer(paths, holder), None
    except ControlError as error:
        if error.code == 7:
            return _no_answer(paths, holder), None
        return Finding("node", Level.FAIL, error.error, error.hint), None
    text = f"{node['name']} is {node.get('state', 'running')}: root {node['pid']}, heart {node['heart_pid']}"
    if holder is None:
        lost = f"{text}, but nobody holds {paths.lock}"
        return Finding("node", Level.WARN, lost, "was it deleted? restart the node"), node
    return Finding("node", Level.OK, text), node


def _no_answer(paths: NodePaths, holder: str | None) -> Finding:
    if holder is not None:
        there = "the control socket is gone" if not paths.control.exists() else "nobody answers on the control socket"
        return Finding(
            "node", Level.FAIL, f"the lock is held (heart {holder}), but {there}",
            "root may just be starting again; else end the node with: otpd stop --now",
        )  # fmt: skip
    stale = [path.name for path in (paths.control, *paths.notify_sockets()) if path.exists()]
    left = f"; it left {', '.join(stale)}, which the next start replaces" if stale else ""
    living = _left_alive(paths)
    if living:
        return Finding(
            "node", Level.WARN, f"not running, but {', '.join(living)} {'lives' if len(living) == 1 else 'live'}{left}",
            "heart, root and logger were killed at once; the next start ends what is left of that life",
        )  # fmt: skip
    return Finding("node", Level.OK, f"not running{left}")


def _left_alive(paths: NodePaths) -> list[str]:
    from otpd.supervisor.sweep import carriers

    try:
        node_id = paths.node_id.read_text().strip()
    except OSError:
        return []
    return [f"{each.title or 'a process'} (pid {each.pid})" for each in carriers(node_id)]


def files(children: int) -> Finding:
    """The hard limit counts: root raises its own soft limit to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _BASE_FILES + _FILES_PER_CHILD * children
    text = f"at most {_limit(hard)} per process; root needs about {needed}"
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Finding("open files", Level.FAIL, text, f"raise the hard limit: ulimit -Hn {needed * 2}")
    return Finding("open files", Level.OK, text)


def processes() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return Finding("processes", Level.OK, f"{_limit(soft)} for this user")


def commands(context: Context) -> Iterator[Finding]:
    """The sandboxes of this machine, and the profiles of the config."""
    from otpd.cli import sandboxes

    try:
        node = context.load()
    except (ConfigErrors, Failure, PathError):
        node = None
    yield from sandboxes.examine(node)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _locate(context: Context) -> tuple[NodePaths | None, Finding]:
    """The node's directories; a machine without any config can be examined all the same."""
    try:
        paths = context.paths()
    except ConfigErrors:
        if context.option:
            raise
        return None, Finding("config", Level.WARN, "there is none here", "make one with: otpd init")
    except (Failure, PathError) as error:
        return None, Finding("config", Level.FAIL, str(error))
    return paths, _config(context, paths)


def _config(context: Context, paths: NodePaths) -> Finding:
    try:
        spec = context.load()
    except ConfigErrors as error:
        return Finding("config", Level.FAIL, count(len(error.problems), "problem"), "see them with: otpd check")
    return Finding("config", Level.OK, f"{spec.config} is valid, its state is in {paths.state_dir}")
