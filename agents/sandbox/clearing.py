"""Removes a directory tree that a command has filled: closed directories, any names, any depth, links left alone.

Goes by descriptors and follows nothing, so that it may run beside somebody who changes the tree. Not recursive: what lies
two levels deep is moved up, so that depth costs neither stack nor descriptors.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator


def remove_tree(path: str) -> None:
    """What can't be removed is left where it is."""
    with contextlib.suppress(OSError):
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    names = (f".otpd-{number}" for number in itertools.count())
    while found := os.listdir(os.fsencode(f"/proc/self/fd/{top}")):
        for name in found:
            if _is_directory(top, name):
                _dissolve(top, name, names)
            else:
                os.unlink(name, dir_fd=top)


def _is_directory(at: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode)


def _dissolve(top: int, name: bytes, names: Iterator[str]) -> None:
    """Remove the directory `name`; the directories in it become entries of `top`."""
    _open_up(top, name)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for child in os.listdir(os.fsencode(f"/proc/self/fd/{inner}")):
            if _is_directory(inner, child):
                _open_up(inner, child)
                _move_up(inner, child, top, names)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _open_up(at: int, name: bytes) -> None:
    """Give its owner all rights over a directory; never over what a link leads to."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{place}", stat.S_IRWXU)
    finally:
        os.close(place)


def _move_up(inner: int, child: bytes, top: int, names: Iterator[str]) -> None:
    for name in names:
        if not _exists(top, name):
            os.rename(child, name, src_dir_fd=inner, dst_dir_fd=top)
            return


def _exists(at: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=at)
    except FileNotFoundError:
        return False
    return True
