"""A file system that never answers: who looks into it waits in state D, where no signal reaches him, until it is gone."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HEADER = struct.Struct("<IIQQIIII")
_INIT = 26
#: Length, error, whose answer it is; then version 7.31 and the least of everything.
_INIT_ANSWER = struct.Struct("<IiQ" + "IIIIHHIIHHII24x")


@contextmanager
def stuck_directory(place: Path) -> Iterator[Path]:
    """`place` as such a file system: a FUSE server that says hello and then only listens. Skips where there is no FUSE."""
    if os.getuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE")
    place.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"stuck", os.fsencode(place), b"fuse", 0, options) != 0:
        os.close(fd)
        pytest.skip(f"can't mount FUSE: {os.strerror(ctypes.get_errno())}")
    server = threading.Thread(target=_listen, args=(fd,), daemon=True)
    server.start()
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", "--force", str(place)], check=True)
        server.join(60)
        os.close(fd)


def _listen(fd: int) -> None:
    while True:
        try:
            request = os.read(fd, 1 << 17)
        except OSError:
            return  # unmounted
        _, opcode, unique, *_ = _HEADER.unpack_from(request)
        if opcode == _INIT:
            os.write(fd, _INIT_ANSWER.pack(_INIT_ANSWER.size, 0, unique, 7, 31, 0, 0, 1, 1, 4096, 1, 0, 0, 0, 0))
