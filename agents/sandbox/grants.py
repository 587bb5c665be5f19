"""Opens what a command may see of the host's files, as detached mounts that the slot attaches in its own root.

Opened anew for each run, without following a symbolic link anywhere: a command that was granted a directory may have
put a link in it, for the next one to be granted. As root, ids are mapped on the mount: in the sandbox everything of the
directory's owner belongs to the slot's uid, and on disk what the command makes belongs to the owner.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from dataclasses import dataclass, field
from typing import Final

from otpd.agents.sandbox import kernel
from otpd.agents.sandbox.errors import GrantRefused

_STRICT: Final = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
_SAFE: Final = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
#: Never granted for writing: as a whole, or with anything beneath.
_WHOLE: Final = frozenset(
    {"/", "/bin", "/home", "/lib", "/lib32", "/lib64", "/root", "/run", "/sbin", "/tmp", "/usr", "/var"}
)
_BENEATH: Final = ("/boot", "/dev", "/etc", "/proc", "/sys")


@dataclass(frozen=True, slots=True)
class Grant:
    """A detached mount; whoever holds it closes `tree`."""

    path: str
    tree: int
    file: bool


@dataclass(slots=True)
class IdMaps:
    """User namespaces that serve as maps "owner on disk -> uid of the slot", one for each owner seen. For root only."""

    slot_uid: int
    _known: dict[tuple[int, int], int] = field(default_factory=dict)

    def of(self, owner: int, group: int) -> int:
        """A descriptor, valid until `close`. OSError."""
        if (owner, group) not in self._known:
            self._known[owner, group] = self._make(owner, group)
        return self._known[owner, group]

    def _make(self, owner: int, group: int) -> int:
        ready, gone = os.pipe()
        pid = kernel.clone(kernel.CLONE_NEWUSER)
        if pid == 0:
            os.close(gone)
            os.read(ready, 1)
            os._exit(0)
        try:
            _write(f"/proc/{pid}/uid_map", f"{owner} {self.slot_uid} 1")
            _write(f"/proc/{pid}/gid_map", f"{group} {self.slot_uid} 1")
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(ready)
            os.close(gone)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def close(self) -> None:
        for fd in self._known.values():
            os.close(fd)
        self._known.clear()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def open_grant(path: str, *, writable: bool, maps: IdMaps | None) -> Grant:
    """GrantRefused says why `path` can't be given."""
    place, about = _look(path, writable)
    try:
        return Grant(path, _tree(path, place, about, writable, maps), stat.S_ISREG(about.st_mode))
    finally:
        os.close(place)


def check_grant(path: str, *, writable: bool) -> None:
    """The same, for who does not mount it. GrantRefused."""
    os.close(_look(path, writable)[0])


def _look(path: str, writable: bool) -> tuple[int, os.stat_result]:
    """A descriptor of what is there, which the caller closes."""
    if writable:
        _refuse_system(path)
    place = _open_strictly(path)
    about = os.fstat(place)
    if not (stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode)):
        os.close(place)
        raise GrantRefused(path, "expected a directory or a file, got a special file", "name the directory that holds it")
    return place, about


def _refuse_system(path: str) -> None:
    inside = next((each for each in _BENEATH if path == each or path.startswith(each + "/")), None)
    if inside or path in _WHOLE:
        raise GrantRefused(path, "is a part of the system and is never granted for writing", "grant a directory of your own")


def _open_strictly(path: str) -> int:
    try:
        return kernel.openat2(kernel.AT_FDCWD, path, os.O_PATH, _STRICT)
    except OSError as error:
        if error.errno == errno.ELOOP:
            real = os.path.realpath(path)
            text = f"a symbolic link leads there (to {real}), and a command may have put it there"
            raise GrantRefused(path, text, f"if you trust it, grant {real} itself") from error
        fix = "make it first" if error.errno == errno.ENOENT else ""
        raise GrantRefused(path, error.strerror or "can't be opened", fix) from error


def _tree(path: str, place: int, about: os.stat_result, writable: bool, maps: IdMaps | None) -> int:
    on = _SAFE | (0 if writable else kernel.MOUNT_ATTR_RDONLY)
    tree = -1
    try:
        tree = kernel.open_tree("", at=place)
        kernel.mount_setattr(tree, "", on)
        if maps is not None:
            _map_ids(path, tree, about, writable, maps)
        return tree
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(tree)
        raise GrantRefused(path, f"{error.filename}: {error.strerror}") from error
    except GrantRefused:
        os.close(tree)
        raise


def _map_ids(path: str, tree: int, about: os.stat_result, writable: bool, maps: IdMaps) -> None:
    """Reading works without a map wherever everybody may read; writing never does."""
    try:
        kernel.mount_setattr(tree, "", 0, userns=maps.of(about.st_uid, about.st_gid))
    except OSError as error:
        if writable:
            text = f"its file system can't map owners ({error.strerror}), so that the command's files would belong to nobody"
            raise GrantRefused(path, text, "use ext4, xfs, btrfs or tmpfs, or `workspace`") from error


@dataclass(frozen=True, slots=True)
class Placeholder:
    """An empty directory in place of what is to be protected and does not exist. `path` is relative to the grant."""

    path: str
    parent: int

    def remove(self) -> None:
        """If it is still empty."""
        with contextlib.suppress(OSError):
            os.rmdir(os.path.basename(self.path), dir_fd=self.parent)
        os.close(self.parent)


def fill_first_missing(grant: str, protected: str) -> Placeholder | None:
    """What does not exist can't be kept from being made: the first missing part of `protected` becomes a directory.

    GrantRefused when a symbolic link is in the way: what it leads to would not be protected. Goes by descriptors, because
    another command may be busy in there.
    """
    at = _open_strictly(grant)
    beneath = ""
    for name in protected.split("/"):
        beneath = f"{beneath}/{name}".lstrip("/")
        try:
            inner = kernel.openat2(at, name, os.O_PATH, _STRICT | kernel.RESOLVE_BENEATH)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=at)
            return Placeholder(beneath, at)
        except OSError as error:
            os.close(at)
            text = f"can't be protected: {error.strerror}"
            raise GrantRefused(f"{grant}/{beneath}", text, "replace the symbolic link by what it means") from error
        os.close(at)
        at = inner
    os.close(at)
    return None
