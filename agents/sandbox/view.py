"""What a command sees of the file system: the template that a nest builds once, and the base plan by which slots copy it.

`system`: a root of its own with /usr, the libraries, a few harmless files of /etc, made-up accounts and hosts, five
devices. `host-ro`: the host's own tree, read-only, with what is private to people and services covered. Everything that
a command can write is fresh for each run.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from otpd.agents.sandbox import kernel, records
from otpd.agents.sandbox.errors import SandboxUnavailable
from otpd.agents.sandbox.grants import IdMaps, open_grant
from otpd.agents.sandbox.profile import Settings
from otpd.agents.sandbox.records import Kind

#: Who a command is, as it sees it.
UID: Final = 1000
USER: Final = "sandbox"
HOME: Final = f"/home/{USER}"
WORKSPACE: Final = "/workspace"
#: Fresh for each run, writable.
SCRATCH: Final = ("/tmp", "/dev/shm", HOME)

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC: Final = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "fonts", "gai.conf", "java", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "os-release", "perl", "pki", "protocols", "services",
    "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone", "xml",
)  # fmt: skip
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS: Final = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
#: Hidden in the view "host-ro".
_PRIVATE: Final = (
    "home",
    "media",
    "mnt",
    "root",
    "run",
    "srv",
    "sys",
    "var/tmp",
    "var/lib",
    "var/log",
    "var/spool",
    "var/cache",
)
#: Where the new root is mounted before it becomes the root. The first that exists.
STAGES: Final = ("/tmp", "/mnt", "/media", "/srv", "/run")
_STAGE: Final = "/.stage"

_PASSWD: Final = f"root:x:0:0:root:/:/usr/sbin/nologin\n{USER}:x:{UID}:{UID}::{HOME}:/bin/sh\n"
_GROUP: Final = f"root:x:0:\n{USER}:x:{UID}:\n"
_HOSTS: Final = "127.0.0.1 localhost sandbox\n::1 localhost\n"
_NSSWITCH: Final = "passwd: files\ngroup: files\nhosts: files dns\n"

#: Each sandbox has these of its own, so that the host's stay free. Watches of files count against the user otherwise.
_USER_SYSCTLS: Final = {
    "user/max_user_namespaces": "0",
    "user/max_inotify_instances": "16",
    "user/max_inotify_watches": "16384",
}
#: oom_score_adj of every command: if the machine runs out of memory, they go before anything else.
DIES_FIRST: Final = records.number(Kind.OUT_OF_MEMORY, 1000)
#: Commands yield to what watches them, and to the programs that wait for them.
YIELDS: Final = records.number(Kind.NICE, 5)
_PAGE: Final = 4096
#: Of each entry of ETC.
_COPIED_FILES, _COPIED_BYTES = 1000, 1 << 20


@dataclass(slots=True)
class Layout:
    """`trees` are detached mounts, which the layout's holder closes; the plans refer to them by position."""

    stage: str
    trees: list[int] = field(default_factory=list)
    template: list[bytes] = field(default_factory=list)
    base: list[bytes] = field(default_factory=list)

    def mount(self, tree: int, target: str, *, file: bool = False) -> None:
        self.template.append(records.mount(len(self.trees), target, file=file))
        self.trees.append(tree)

    def both(self, record: bytes) -> None:
        self.template.append(record)
        self.base.append(record)

    def close(self) -> None:
        for tree in self.trees:
            os.close(tree)
        self.trees.clear()


def layout(settings: Settings, maps: IdMaps | None, extra: Iterable[str], *, proc: bool) -> Layout:
    """Opens the view. `extra`: more to read, if it is not in sight anyway. GrantRefused, SandboxUnavailable."""
    stage = next((each for each in STAGES if os.path.isdir(each)), None)
    if stage is None:
        raise SandboxUnavailable(f"none of {', '.join(STAGES)} exists to build a view on", fix="mkdir /tmp")
    made = Layout(stage)
    try:
        (_system if settings.view == "system" else _host)(made, settings, proc)
        _mount_proc(made, proc)
        made.base += _scratch(settings)
        for path in outermost([*settings.ro, *(each for each in extra if not _in_sight(each, settings))]):
            _read_only(made, path, maps)
    except BaseException:
        made.close()
        raise
    _finish(made, settings)
    return made


def _in_sight(path: str, settings: Settings) -> bool:
    if settings.view == "host-ro":
        return not any(path.startswith(f"/{each}/") for each in (*_PRIVATE, "tmp"))
    return path.startswith("/usr/")


def outermost(paths: Iterable[str]) -> list[str]:
    """Without those that lie beneath another one."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(each.rstrip("/") + "/") for each in found):
            found.append(path)
    return found


def _read_only(made: Layout, path: str, maps: IdMaps | None) -> None:
    grant = open_grant(path, writable=False, maps=maps)
    made.mount(grant.tree, path[1:], file=grant.file)
    made.base.append(records.text(Kind.BIND, path, path[1:], flags=int(grant.file)))


def _tree(path: str, *, device: bool = False) -> int:
    """A read-only copy of a part of the system."""
    tree = kernel.open_tree(path)
    nodev = 0 if device else kernel.MOUNT_ATTR_NODEV
    try:
        kernel.mount_setattr(tree, "", kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | nodev)
    except OSError:
        os.close(tree)
        raise
    return tree


# --- the view "system" ---


def _system(made: Layout, settings: Settings, proc: bool) -> None:
    made.template.append(records.text(Kind.NEW_ROOT, made.stage, "size=16m,nr_inodes=16k,mode=755"))
    made.base.append(records.text(Kind.NEW_ROOT, _STAGE, "size=1m,nr_inodes=2k,mode=755"))
    made.template.append(records.text(Kind.DIRECTORY, _STAGE[1:], flags=0o755))
    for path in SYSTEM:
        if os.path.islink(path):
            made.both(records.text(Kind.LINK, path[1:], os.readlink(path)))
        elif os.path.isdir(path):
            made.mount(_tree(path), path[1:])
            made.base.append(records.text(Kind.BIND, path, path[1:]))
    _etc(made, settings)
    _dev(made)
    for name in ("etc", "dev"):
        made.base.append(records.text(Kind.BIND, f"/{name}", name))
    for name in ("home", "run", "var/lib", "var/empty"):
        made.base.append(records.text(Kind.DIRECTORY, name, flags=0o755))
    made.base.append(records.text(Kind.LINK, "var/tmp", "/tmp"))


def _etc(made: Layout, settings: Settings) -> None:
    """Copies, because each mount costs every slot; what is large is mounted."""
    made.template.append(records.text(Kind.DIRECTORY, "etc", flags=0o755))
    for name, content in etc_files(settings).items():
        made.template.append(records.file(f"etc/{name}", content, 0o444))
    for name in ETC:
        path = f"/etc/{name}"
        if not os.path.lexists(path):
            continue
        copied = list(itertools.islice(_copy(path), _COPIED_FILES + 1))
        if len(copied) <= _COPIED_FILES and sum(map(len, copied)) <= _COPIED_BYTES:
            made.template += copied
        elif for_everybody(path):
            made.mount(_tree(path), path[1:], file=not os.path.isdir(path))


def _copy(path: str) -> Iterator[bytes]:
    """Records that make what everybody may read of `path`, and beneath it, again."""
    if os.path.islink(path):
        yield records.text(Kind.DIRECTORY, os.path.dirname(path)[1:], flags=0o755)
        yield records.text(Kind.LINK, path[1:], os.readlink(path))
    elif not for_everybody(path):
        return
    elif os.path.isdir(path):
        yield records.text(Kind.DIRECTORY, path[1:], flags=0o755)
        for name in sorted(os.listdir(path)):
            yield from _copy(os.path.join(path, name))
    elif os.path.isfile(path):
        yield records.file(path[1:], _content(path), 0o444)


def for_everybody(path: str) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IROTH)


def etc_files(settings: Settings) -> dict[str, bytes]:
    """What is made up, by name."""
    found = {"passwd": _PASSWD, "group": _GROUP, "hosts": _HOSTS, "nsswitch.conf": _NSSWITCH, "hostname": "sandbox\n"}
    made = {name: text.encode() for name, text in found.items()}
    if settings.net == "host":
        made |= {name: content for name in ("resolv.conf", "hosts") if (content := _content(f"/etc/{name}"))}
    return made


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""


def _dev(made: Layout) -> None:
    made.template.append(records.text(Kind.TMPFS, "dev", "size=64k,nr_inodes=64,mode=755"))
    for name in DEVICES:
        made.mount(_tree(f"/dev/{name}", device=True), f"dev/{name}", file=True)
    for name, target in DEVICE_LINKS.items():
        made.template.append(records.text(Kind.LINK, f"dev/{name}", target))
    made.template.append(records.text(Kind.DIRECTORY, "dev/shm", flags=0o755))
    made.template.append(records.text(Kind.READ_ONLY, "dev"))


# --- the view "host-ro" ---


def _host(made: Layout, settings: Settings, proc: bool) -> None:
    made.mount(_tree("/"), ".")
    _dev(made)
    for name in (*hidden(), *(() if proc else ("proc",))):
        made.base.append(records.text(Kind.TMPFS, name, "size=256k,nr_inodes=512,mode=755"))


def hidden() -> list[str]:
    """What of the host is covered in the view "host-ro"."""
    return [name for name in _PRIVATE if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]


# --- what both end with ---


def _mount_proc(made: Layout, proc: bool) -> None:
    if proc:
        made.template.append(records.text(Kind.BIND, "/proc", "proc"))
        made.base.append(records.text(Kind.PROC, "proc"))
        # Some limits below /proc/sys belong to the uid that the command shares with its nest.
        made.base.append(records.text(Kind.SEAL, "proc/sys"))


def _finish(made: Layout, settings: Settings) -> None:
    made.template.append(records.raw(Kind.PIVOT))
    if settings.view == "system":
        made.template.append(records.text(Kind.READ_ONLY, "/"))
        made.base.append(records.raw(Kind.PIVOT))
    made.base += _sysctls(settings)
    made.base.append(records.number(Kind.IDENTITY, UID << 32 | UID))
    made.base += [DIES_FIRST, YIELDS]
    made.base += [records.text(Kind.USER_SYSCTL, name, value) for name, value in _USER_SYSCTLS.items()]
    made.base += [records.text(Kind.READ_ONLY, path) for path in _closed(settings)]
    made.base.append(records.raw(Kind.PRIVATE_MOUNTS))


def _scratch(settings: Settings) -> Iterator[bytes]:
    files = settings.tmp_files
    yield records.text(Kind.TMPFS, "tmp", f"size={settings.tmp},nr_inodes={files},mode=1777")
    yield records.text(Kind.TMPFS, "dev/shm", f"size={settings.shm},nr_inodes={files},mode=1777")
    yield records.text(Kind.TMPFS, HOME[1:], f"size={settings.tmp},nr_inodes={files},mode=700")
    if settings.workspace:
        yield records.text(Kind.TMPFS, WORKSPACE[1:], f"size={settings.workspace},nr_inodes={files},mode=700")


def _sysctls(settings: Settings) -> Iterator[bytes]:
    """System V and POSIX IPC of a slot, which are memory that no process has: pages, queues."""
    yield records.text(Kind.SYSCTL, "kernel/shmall", str(settings.shm // _PAGE))
    yield records.text(Kind.SYSCTL, "kernel/msgmni", "16")
    yield records.text(Kind.SYSCTL, "fs/mqueue/queues_max", "16")


def _closed(settings: Settings) -> Iterator[str]:
    """What is writable only until the mounts of a run are in place."""
    yield "/"
    if settings.view == "host-ro":
        yield from (f"/{name}" for name in hidden())
