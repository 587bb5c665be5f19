"""The backend bwrap: for machines on which bubblewrap may make namespaces and we may not. One bwrap per command.

It builds the namespaces and the view; inside, our own init (the compiled one, or an interpreter) does the rest as
everywhere. What that costs: no slot is ready ahead, and `capability` says what is weaker. As root, bwrap itself runs as
the slot's uid, and sees what it is to bind on a staging directory, with owners mapped: what lies in root's own home, such as
an interpreter, is closed to that uid by its path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import select
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from otpd.agents.sandbox import bundle, cgroup, kernel, seccomp, view, watch
from otpd.agents.sandbox.backend import Backend, Granted, open_grants
from otpd.agents.sandbox.capability import Bound, Capability, Gap, common_limits, landlock_layer, memory_bound
from otpd.agents.sandbox.errors import NotInTime, SandboxUnavailable, SetupFailed
from otpd.agents.sandbox.grants import IdMaps, open_grant
from otpd.agents.sandbox.native import NAMESPACES, own_place
from otpd.agents.sandbox.nesting import LAUNCHER, boot_words, interpreter, interpreter_paths, memory
from otpd.agents.sandbox.plans import Place
from otpd.agents.sandbox.profile import Profile, Settings
from otpd.agents.sandbox.slot import Slot

_PLACES: Final = ("/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap")
_INIT: Final = "/.otpd-init"
_PATIENCE: Final = 20.0
#: The init counts against the limit of tasks.
_MORE_TASKS: Final = 1


class Bubblewrap(Backend):
    """See the module. `launcher`: path of the compiled nest, "" for an interpreter, None for what is there."""

    name = "bwrap"

    def __init__(self, settings: Settings, slot_uid: int, *, launcher: str | None = None) -> None:
        super().__init__(settings, slot_uid)
        if launcher is None:
            launcher = LAUNCHER if os.access(LAUNCHER, os.X_OK) else ""
        self._launcher = "" if settings.python else launcher
        self._maps = IdMaps(slot_uid) if slot_uid else None
        self._program = next((path for path in _PLACES if os.access(path, os.X_OK)), "")
        self._running: subprocess.Popen[bytes] | None = None
        self._abi = kernel.landlock_abi()
        self._proc = True

    def start(self) -> None:
        if not self._program:
            raise SandboxUnavailable("bwrap is not installed", layer="bwrap", fix="install the package bubblewrap")
        if not kernel.supported():
            raise SandboxUnavailable(f"no table of system calls for {kernel.machine()}", fix="run on x86_64 or aarch64")
        if "--size" not in _help(self._program):
            raise SandboxUnavailable(
                "bwrap can't limit the size of a tmpfs", layer="bwrap", fix="install bubblewrap 0.7 or newer"
            )
        self.leaf = cgroup.make_leaf("bwrap")
        try:
            slot = self.take(Profile(), Granted())
        except NotInTime:
            raise
        except SetupFailed as error:
            raise SandboxUnavailable(f"bwrap builds no sandbox: {error.text}", layer="bwrap", fix=error.fix) from error
        if self.leaf is not None:
            self.leaf.measure_overhead()
        slot.kill()
        slot.wait(_PATIENCE)
        slot.close()

    @functools.cached_property
    def capability(self) -> Capability:
        layers = dict.fromkeys((*NAMESPACES, "caps", "no_new_privs", "view", "signals", "protect", "proc"), "")
        layers["seccomp"] = str(seccomp.VERSION)
        found, missing = landlock_layer(self._abi)
        layers |= found
        if self.settings.net == "none":
            layers |= {"netns": "", "net": ""}
        if self.slot_uid:
            layers["slot_uid"] = ""
        missing["ipc"] = Gap("bwrap does not bound IPC; such calls are denied", "use the backend native")
        missing["user_limits"] = Gap("inotify counts against the user who runs otpd", "use the backend native")
        tmpfs = Bound("hard", "size of a tmpfs")
        limits = {
            **common_limits(self.leaf), "memory": memory_bound(self.leaf),
            "pids": Bound("hard", "RLIMIT_NPROC in a user namespace"),
            "tmp": tmpfs, "shm": tmpfs, "tmp_files": Bound("best-effort", "watch every 5-50 ms"),
        }  # fmt: skip
        return Capability(self.name, layers, missing, limits, "c" if self._launcher else "python")

    @property
    def place(self) -> Place:
        return own_place(self.settings, more_tasks=_MORE_TASKS)

    def grant(self, profile: Profile) -> Granted:
        """As root, mounts to be staged; else paths that bwrap binds itself, checked here."""
        return open_grants(profile, self._maps, mount=bool(self.slot_uid))

    def take(self, profile: Profile, granted: Granted) -> Slot:
        self._reap()
        if self.leaf is not None:
            self.leaf.limit(profile.limits.memory, profile.limits.pids)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told, tell = os.pipe2(os.O_CLOEXEC)
        slot = Slot(ours)
        try:
            self._spawn(profile, granted, theirs.fileno(), told, tell)
        finally:
            theirs.close()
            os.close(tell)
        try:
            slot.init = _pidfd_of(told)
            slot.await_ready()
        except (SetupFailed, OSError) as error:
            slot.close()
            raise self._why(error) from error
        finally:
            os.close(told)
        # What was bound by bwrap needs no mounts of the init.
        granted.close()
        granted.mounts.clear()
        return slot

    def _spawn(self, profile: Profile, granted: Granted, slot: int, told: int, tell: int) -> None:
        """bwrap has `told`, too: a SIGPIPE from telling would end it too soon (`_before`)."""
        base = memory(view.DIES_FIRST + view.YIELDS)
        inherited = [slot, told, tell, base]
        files = {f"/etc/{name}": memory(content) for name, content in view.etc_files(self.settings).items()}
        for fd in files.values():
            os.lseek(fd, 0, os.SEEK_SET)
        words, more = self._init_words(slot, base)
        stage = _Stage(granted.trees, [*self.settings.ro], self._own_files(), self._maps) if self.slot_uid else None
        inherited += [*files.values(), *more]
        command = [self._program, *self._arguments(profile, granted, files, stage), "--info-fd", str(tell), "--", *words]
        try:
            self._running = subprocess.Popen(
                command, env={}, cwd="/", pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, preexec_fn=functools.partial(_before, self.leaf, stage, self.slot_uid),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise SetupFailed(f"bwrap can't be started: {error}", layer="bwrap") from error
        finally:
            for fd in (base, *files.values(), *more):
                os.close(fd)
            if stage is not None:
                stage.close()

    def _own_files(self) -> list[str]:
        """What the init is made of, wherever otpd is installed."""
        return [self._launcher] if self._launcher else [*interpreter_paths(interpreter(self.settings.python))]

    def _init_words(self, slot: int, base: int) -> tuple[list[str], list[int]]:
        """The command line inside, and the descriptors that it needs besides."""
        if self._launcher:
            return [_INIT, "--init", str(slot), str(base)], []
        setup = {"mode": "init", "control": slot, "base": base}
        more = [memory(bundle.pack()), memory(json.dumps(setup).encode())]
        return boot_words(interpreter(self.settings.python), *more), more

    def _arguments(self, profile: Profile, granted: Granted, files: dict[str, int], stage: _Stage | None) -> list[str]:
        settings = self.settings
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--as-pid-1"]
        words += ["--die-with-parent", "--clearenv", "--hostname", "sandbox", "--uid", str(view.UID), "--gid", str(view.UID)]
        words += ["--cap-drop", "ALL", *(["--unshare-net"] if settings.net == "none" else [])]
        words += [
            *_system(settings),
            *_etc(files),
            *_devices(settings),
            "--proc",
            "/proc",
            "--ro-bind",
            "/proc/sys",
            "/proc/sys",
        ]
        for path, size in _scratch(settings):
            words += ["--perms", "0700" if path == view.HOME else "1777", "--size", str(size), "--tmpfs", path]
        readable = [*settings.ro, *([] if self._launcher else self._own_files())]
        for path in view.outermost(readable):
            words += ["--ro-bind", stage.read_only(path) if stage else path, path]
        for index, path in enumerate(sorted(profile.rw)):
            words += ["--bind", stage.granted(index) if stage else path, path]
        if self._launcher:
            words += ["--ro-bind", stage.read_only(self._launcher) if stage else self._launcher, _INIT]
        return [*words, *_protected(profile, granted, stage), "--remount-ro", "/"]

    def measure(self, slot: Slot, limit: int) -> watch.Usage:
        """bwrap's tmpfs has no limit of files: they are counted."""
        found = super().measure(slot, limit)
        counts = [_files(f"/proc/self/fd/{slot.proc}/1/root{path}") for path in view.SCRATCH]
        return dataclasses.replace(found, tmp_files=max(counts))

    def _why(self, error: Exception) -> SetupFailed:
        """What bwrap itself said, which is better than that it is gone."""
        said = ""
        if self._running is not None and self._running.stderr is not None:
            self._running.kill()
            said = self._running.stderr.read(2000).decode(errors="replace").strip()
        self._reap()
        return SetupFailed(said or str(error), layer="bwrap", fix="run bwrap by hand to see what it lacks")

    def _reap(self) -> None:
        if self._running is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(1.0)
        self._running.kill()
        self._running.wait()
        assert self._running.stderr is not None
        self._running.stderr.close()
        self._running = None

    def close(self) -> None:
        if self._running is not None:
            self._running.kill()
        self._reap()
        if self._maps is not None:
            self._maps.close()
        if self.leaf is not None:
            self.leaf.remove()


@functools.cache
def _help(program: str) -> str:
    return subprocess.run([program, "--help"], capture_output=True, text=True, env={}, check=False).stdout


def _pidfd_of(told: int) -> int:
    """Of pid 1 inside, as bwrap tells it. SetupFailed."""
    end, text = time.monotonic() + _PATIENCE, b""
    while b"}" not in text:
        if not select.select([told], [], [], max(0.0, end - time.monotonic()))[0]:
            why = f"bwrap has built nothing within {_PATIENCE:g} s"
            raise NotInTime(why, layer="bwrap", fix="look at the load of the machine")
        if not (chunk := os.read(told, 4096)):
            raise SetupFailed("bwrap ended before its sandbox stood.", layer="bwrap")
        text += chunk
    return os.pidfd_open(json.loads(text)["child-pid"])


def _files(path: str) -> int:
    try:
        about = os.statvfs(path)
    except OSError:
        return 0
    return about.f_files - about.f_ffree


def _system(settings: Settings) -> Iterator[str]:
    if settings.view == "host-ro":
        yield from ("--ro-bind", "/", "/")
        for name in view.hidden():
            yield from ("--tmpfs", f"/{name}")
        return
    for path in view.SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)
    for name in view.ETC:
        path = f"/etc/{name}"
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.exists(path) and view.for_everybody(path):
            yield from ("--ro-bind", path, path)
    yield from ("--symlink", "/tmp", "/var/tmp")


def _etc(files: dict[str, int]) -> Iterator[str]:
    for path, fd in files.items():
        yield from ("--perms", "0444", "--ro-bind-data", str(fd), path)


def _devices(settings: Settings) -> Iterator[str]:
    yield from ("--size", "65536", "--tmpfs", "/dev")
    for name in view.DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    for name, target in view.DEVICE_LINKS.items():
        yield from ("--symlink", target, f"/dev/{name}")


def _scratch(settings: Settings) -> Iterator[tuple[str, int]]:
    yield "/tmp", settings.tmp
    yield "/dev/shm", settings.shm
    yield view.HOME, settings.tmp
    if settings.workspace:
        yield view.WORKSPACE, settings.workspace


def _protected(profile: Profile, granted: Granted, stage: _Stage | None) -> Iterator[str]:
    """Read-only, with every directory on the way mounted on itself."""
    indices = {path: index for index, path in enumerate(sorted(profile.rw))}
    for grant, path in granted.protected:
        top = stage.granted(indices[grant]) if stage else grant
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            beneath = "/".join(parts[:depth])
            yield from ("--ro-bind" if depth == len(parts) else "--bind", f"{top}/{beneath}", f"{grant}/{beneath}")


class _Stage:
    """For root: where bwrap, as the slot's uid, finds what it binds. In a mount namespace of its own (`_before`)."""

    def __init__(self, trees: list[int], read_only: list[str], own: list[str], maps: IdMaps | None) -> None:
        """`own`: what the init is made of; it is otpd's, so a symbolic link may lead there."""
        self.directory = next(filter(os.path.isdir, view.STAGES), "")
        if not self.directory:
            raise SetupFailed(f"none of {', '.join(view.STAGES)} exists.", layer="bwrap", fix="mkdir /mnt")
        self._read = {path: len(trees) + index for index, path in enumerate([*read_only, *own])}
        sources = [*read_only, *map(os.path.realpath, own)]
        self._opened = [open_grant(path, writable=False, maps=maps).tree for path in sources]
        self._trees = [*trees, *self._opened]

    def granted(self, index: int) -> str:
        return f"{self.directory}/{index}"

    def read_only(self, path: str) -> str:
        return f"{self.directory}/{self._read[path]}"

    def build(self) -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount("tmpfs", self.directory, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,mode=755")
        for index, tree in enumerate(self._trees):
            path = f"{self.directory}/{index}"
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                os.mkdir(path)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            place = os.open(path, os.O_PATH)
            kernel.move_mount(tree, place)
            os.close(place)

    def close(self) -> None:
        for tree in self._opened:
            os.close(tree)


def _before(leaf: cgroup.Leaf | None, stage: _Stage | None, slot_uid: int) -> None:
    """In bwrap's process, before the exec.

    That it dies with this one is for itself to ask (--die-with-parent), which it does last, before it lets its child go on:
    killed sooner it leaves a child that waits for that for ever. One that was let go finds nobody at its socket, and ends.
    """
    if leaf is not None:
        leaf.add(os.getpid())
    if stage is not None:
        stage.build()
        os.setgroups([])
        os.setresgid(slot_uid, slot_uid, slot_uid)
        os.setresuid(slot_uid, slot_uid, slot_uid)
