"""The backend landlock, for machines that give no namespaces: rights over files, system calls, rlimits, a family's end.

The command sees the host's processes by name and the host's files by name, and can open none of them that the profile
does not name. It has a private directory on disk for /tmp, emptied after each run. What is weaker: `capability`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import Final

from otpd.agents.sandbox import cgroup, family, kernel, landlock, seccomp, view, watch
from otpd.agents.sandbox.backend import Backend, Granted
from otpd.agents.sandbox.capability import Bound, Capability, Gap, common_limits, memory_bound
from otpd.agents.sandbox.clearing import remove_tree
from otpd.agents.sandbox.disk import DiskWatch
from otpd.agents.sandbox.errors import GrantRefused, SandboxUnavailable
from otpd.agents.sandbox.grants import check_grant
from otpd.agents.sandbox.landlock import Rule
from otpd.agents.sandbox.nesting import Nest, interpreter_paths
from otpd.agents.sandbox.plans import PATH, Place, task_limit
from otpd.agents.sandbox.profile import Profile, Settings
from otpd.agents.sandbox.slot import Slot

PREFIX: Final = "otpd-sandbox-"
_TOP: Final = "/tmp"
_PROC: Final = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version", "sys/kernel/ngroups_max")
#: Of the nest, a waiting slot and the running one's init: they have the slot's uid, too.
_OWN_TASKS: Final = 4


class Locked(Backend):
    """See the module."""

    name = "landlock"

    def __init__(self, settings: Settings, slot_uid: int) -> None:
        super().__init__(settings, slot_uid)
        self._nest = Nest(settings, slot_uid, plain=True)
        self._asked: Slot | None = None
        self._abi = kernel.landlock_abi()
        self._scratch = ""

    def start(self) -> None:
        if not kernel.supported():
            raise SandboxUnavailable(f"no table of system calls for {kernel.machine()}", fix="run on x86_64 or aarch64")
        if not self._abi:
            raise SandboxUnavailable("the kernel has no Landlock", layer="landlock", fix="boot with lsm=landlock,...")
        self._scratch = os.path.realpath(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_TOP))
        self._fresh_scratch()
        self.leaf = self._nest.leaf = cgroup.make_leaf("nest")
        self._nest.start()
        self.prepare_next()
        assert self._asked is not None
        self._receive(self._asked)
        if self.leaf is not None:
            self.leaf.measure_overhead()

    @property
    def capability(self) -> Capability:
        layers = {"no_new_privs": "", "view": "", "seccomp": str(seccomp.VERSION), "landlock": str(self._abi)}
        missing = {
            name: Gap("this machine gives no namespaces, or another backend was not asked for", "use the backend native")
            for name in (
                "userns",
                "pidns",
                "mntns",
                "netns",
                "ipcns",
                "utsns",
                "cgroupns",
                "proc",
                "protect",
                "user_limits",
                "ipc",
            )
        }
        missing["names"] = Gap("names of the host's files, devices and processes can be seen, not opened", "")
        if self._abi >= landlock.SCOPE_SINCE:
            layers["signals"] = ""
        else:
            missing["signals"] = Gap(f"Landlock {self._abi} can't keep signals inside", "Linux 6.12 or newer")
        if self.settings.net == "none":
            layers["net"] = "seccomp"
        if self.slot_uid:
            layers["slot_uid"] = ""
        return Capability(self.name, layers, missing, self._limits())

    def _limits(self) -> dict[str, Bound]:
        leaf = self.leaf
        pids = (
            Bound("hard", "RLIMIT_NPROC of the slot's uid") if self.slot_uid else Bound("best-effort", "RLIMIT_NPROC, watch")
        )
        watched = Bound("best-effort", "watch, every 0.2 s")
        return {
            **common_limits(leaf), "pids": pids, "tmp": watched, "tmp_files": watched, "shm": Bound("hard", "no /dev/shm"),
            "memory": memory_bound(leaf),
        }  # fmt: skip

    @property
    def place(self) -> Place:
        home, tmp = f"{self._scratch}/home", f"{self._scratch}/tmp"
        env = {
            "PATH": PATH,
            "HOME": home,
            "TMPDIR": tmp,
            "TMP": tmp,
            "LANG": "C.UTF-8",
            "USER": view.USER,
            "LOGNAME": view.USER,
        }
        devices = tuple(Rule(f"/dev/{name}", landlock.DEVICE, file=True) for name in view.DEVICES)
        return Place(env, home, (home, tmp), tuple(self._readable()), devices, more_tasks=None)

    def _readable(self) -> Iterator[Rule]:
        paths = [*view.SYSTEM, *(f"/etc/{name}" for name in (*view.ETC, "passwd", "group", "hosts", "nsswitch.conf"))]
        if self.settings.net == "host":
            paths.append("/etc/resolv.conf")
        if self.settings.view == "host-ro":
            paths += [f"/{name}" for name in os.listdir("/") if name not in {*view.hidden(), "proc", "dev", "tmp", "var"}]
        paths += [f"/proc/{name}" for name in _PROC]
        for path in (*paths, *interpreter_paths(self.settings.python)):
            if os.path.exists(path):
                yield Rule(path, 0, file=not os.path.isdir(path))

    def grant(self, profile: Profile) -> Granted:
        """Nothing to mount: the paths are checked, and whether the command will be able to write there."""
        for path in (*profile.rw, *profile.ro):
            check_grant(path, writable=path in profile.rw)
            if self.slot_uid and path in profile.rw and not self._may_write(path):
                raise GrantRefused(
                    path, f"uid {self.slot_uid} may not write there, and without mounts owners can't be mapped",
                    "let everybody write there, or use the backend native",
                )  # fmt: skip
        tasks = profile.limits.pids + (_OWN_TASKS if self.slot_uid else _tasks_of(os.getuid()))
        return Granted(mounts=[task_limit(tasks)])

    def _may_write(self, path: str) -> bool:
        about = os.stat(path)
        return about.st_uid == self.slot_uid or bool(about.st_mode & stat.S_IWOTH)

    def take(self, profile: Profile, granted: Granted) -> Slot:
        self.prepare_next()
        slot, self._asked = self._asked, None
        assert slot is not None
        if slot.init < 0:
            self._receive(slot)
        if self.leaf is not None:
            self.leaf.limit(profile.limits.memory, profile.limits.pids)
        return slot

    def prepare_next(self) -> None:
        if self._asked is None:
            self._asked = self._nest.request(_FamilySlot)

    def _receive(self, slot: Slot) -> None:
        self._nest.receive(slot)
        os.close(slot.proc)
        slot.proc = -1  # it is the host's

    def measure(self, slot: Slot, limit: int) -> watch.Usage:
        pid = _pid_of(slot.init)
        seen = watch.measure_tree(pid, limit, bounded=self.bounded) if pid > 0 else watch.Usage()
        found = self.with_cgroup(seen)
        return dataclasses.replace(found, tmp=self._disk.look(), tmp_files=self._disk.files)

    def after(self) -> None:
        self._fresh_scratch()

    def _fresh_scratch(self) -> None:
        self._disk = DiskWatch((self._scratch,))
        for name in ("home", "tmp"):
            path = f"{self._scratch}/{name}"
            remove_tree(path)
            os.mkdir(path, 0o700)
            if self.slot_uid:
                os.chown(path, self.slot_uid, self.slot_uid)
        os.chmod(self._scratch, 0o711)

    def close(self) -> None:
        if self._asked is not None:
            self._asked.close()
        family.end(os.getpid())
        self._nest.close()
        if self._scratch:
            remove_tree(self._scratch)
        if self.leaf is not None:
            self.leaf.remove()


class _FamilySlot(Slot):
    """Its init is no namespace's: who kills it must kill what descends from it first."""

    def kill(self) -> None:
        pid = _pid_of(self.init)
        if pid > 0:
            family.end(pid)
        super().kill()


def _pid_of(pidfd: int) -> int:
    """-1 when it is gone."""
    with contextlib.suppress(OSError):
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), -1)
    return -1


def _tasks_of(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def sweep() -> None:
    """Remove private directories of our own workers that were killed."""
    for name in os.listdir(_TOP):
        maker = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and maker.isdigit() and not os.path.exists(f"/proc/{maker}"):
            path = os.path.join(_TOP, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_uid == os.geteuid():
                    remove_tree(path)
