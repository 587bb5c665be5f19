"""The native backend: namespaces made by otpd itself, one slot always ready."""

from __future__ import annotations

import os
from typing import Final

from otpd.agents.sandbox import cgroup, kernel, landlock, seccomp, view
from otpd.agents.sandbox.backend import Backend, Granted, open_grants
from otpd.agents.sandbox.capability import Bound, Capability, Gap, common_limits, landlock_layer, memory_bound
from otpd.agents.sandbox.errors import SandboxUnavailable
from otpd.agents.sandbox.nesting import LAUNCHER, Nest, enter_user_namespace
from otpd.agents.sandbox.plans import PATH, Place
from otpd.agents.sandbox.profile import Profile, Settings
from otpd.agents.sandbox.slot import Slot

#: The layers that namespaces are, where they can be had at all.
NAMESPACES: Final = ("userns", "pidns", "mntns", "ipcns", "utsns", "cgroupns")


def own_place(settings: Settings, *, more_tasks: int = 0) -> Place:
    """Where the view is a root of its own."""
    env = {
        "PATH": PATH, "HOME": view.HOME, "USER": view.USER, "LOGNAME": view.USER, "TMPDIR": "/tmp", "LANG": "C.UTF-8",
    }  # fmt: skip
    workspace = (view.WORKSPACE,) if settings.workspace else ()
    devices = (landlock.Rule("/dev", landlock.DEVICE),)
    cwd = workspace[0] if workspace else view.HOME
    return Place(env, cwd, (*view.SCRATCH, *workspace), devices=devices, more_tasks=more_tasks)


class Native(Backend):
    """`launcher`: the compiled nest; "": the one in Python."""

    name = "native"

    def __init__(self, settings: Settings, slot_uid: int, *, launcher: str | None = None) -> None:
        super().__init__(settings, slot_uid)
        if launcher is None:
            launcher = LAUNCHER if os.access(LAUNCHER, os.X_OK) else ""
        self._launcher = "" if settings.python else launcher
        self._nest = Nest(settings, slot_uid, launcher=self._launcher)
        self._asked: Slot | None = None  # being made
        self._ready: Slot | None = None
        self._unset = 0, 0
        self._abi = kernel.landlock_abi()

    def start(self) -> None:
        if not kernel.supported():
            raise SandboxUnavailable(f"no table of system calls for {kernel.machine()}", fix="run on x86_64 or aarch64")
        if not self.slot_uid:
            try:
                enter_user_namespace()
            except OSError as error:
                fix = "allow user namespaces (sysctl user.max_user_namespaces; AppArmor, seccomp), or run as root"
                raise SandboxUnavailable(f"no user namespace: {error.strerror}", layer="userns", fix=fix) from error
        self.leaf = self._nest.leaf = cgroup.make_leaf("nest")
        self._nest.start()
        self._unset = self._receive().unset
        if self.leaf is not None:
            self.leaf.measure_overhead()

    @property
    def capability(self) -> Capability:
        layers = dict.fromkeys((*NAMESPACES, "caps", "no_new_privs", "view", "signals", "protect"), "")
        layers["seccomp"] = str(seccomp.VERSION)
        found, missing = landlock_layer(self._abi)
        layers |= found
        for name, there, gap in (
            ("netns", self.settings.net == "none", Gap("the profile shares the host's network", 'net = "none"')),
            ("net", self.settings.net == "none", Gap("the profile shares the host's network", 'net = "none"')),
            ("proc", self._nest.proc, Gap("/proc is masked here, as in many containers", "unmask /proc")),
            ("slot_uid", bool(self.slot_uid), Gap("commands run as the user's own uid", "run otpd as root")),
            ("ipc", not self._unset[0], Gap("limits of IPC can't be set; such calls are denied", "")),
            ("user_limits", not self._unset[1], Gap("inotify counts against the user who runs otpd", "unmask /proc/sys")),
        ):
            if there:
                layers[name] = ""
            else:
                missing[name] = gap
        return Capability(self.name, layers, missing, self._limits(), "c" if self._launcher else "python")

    def _limits(self) -> dict[str, Bound]:
        leaf = self.leaf
        memory = memory_bound(leaf)
        if memory.enforced != "hard" and not self._nest.proc:
            memory = Bound("none", "nothing can be watched without /proc")
        pids = Bound("hard", "RLIMIT_NPROC in the command's own user namespace" + (", cgroup" if leaf and leaf.pids else ""))
        tmpfs = Bound("hard", "size of a tmpfs")
        return {
            **common_limits(leaf),
            "memory": memory,
            "pids": pids, "tmp": tmpfs, "shm": tmpfs, "tmp_files": Bound("hard", "inodes of a tmpfs"),
        }  # fmt: skip

    @property
    def place(self) -> Place:
        return own_place(self.settings)

    def grant(self, profile: Profile) -> Granted:
        return open_grants(profile, self._nest.maps)

    def take(self, profile: Profile, granted: Granted) -> Slot:
        slot, self._ready = self._receive(), None
        if self.leaf is not None:
            self.leaf.limit(profile.limits.memory, profile.limits.pids)
        return slot

    def prepare_next(self) -> None:
        if self._ready is None and self._asked is None:
            self._asked = self._nest.request()

    def coming(self) -> int:
        return self._nest.fileno() if self._asked is not None else -1

    def complete(self) -> None:
        self._receive()

    def _receive(self) -> Slot:
        """The next slot, ready."""
        if self._ready is None:
            self.prepare_next()
            asked, self._asked = self._asked, None
            assert asked is not None
            try:
                self._nest.receive(asked)
            except BaseException:
                asked.close()
                raise
            self._ready = asked
        return self._ready

    def close(self) -> None:
        for slot in (self._asked, self._ready):
            if slot is not None:
                slot.close()
        self._asked = self._ready = None
        self._nest.close()
        if self.leaf is not None:
            self.leaf.remove()
