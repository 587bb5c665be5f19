"""A picture that is drawn again and again on the terminal's other screen, until q or ^C. The terminal is left as it was."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from otpd.cli.failures import Exit, Failure
from otpd.cli.output import Line, coloured, plain, wants_colour

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
#: An escape sequence, or one character.
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(frame: Callable[[], list[Line]], interval: float = 1.0, on_key: Callable[[str], None] | None = None) -> None:
    """Show `frame()` every `interval` seconds, and after every key that `on_key` was told of. Keys are characters, "up",
    "down", "enter" and "escape"; q ends it. Failure 2 when stdout is no terminal."""
    if not sys.stdout.isatty():
        raise Failure(Exit.USAGE, "a live picture needs a terminal, but stdout is none", "leave out -w, or add --json")
    with _other_screen():
        while True:
            sys.stdout.write(_drawn(frame()))
            sys.stdout.flush()
            for key in _keys_within(interval):
                if key in ("q", "Q", "end"):
                    return
                if on_key is not None:
                    on_key(key)


def _drawn(lines: list[Line]) -> str:
    width, height = shutil.get_terminal_size()
    room = height - 1
    shown = lines if len(lines) <= room else lines[: room - 1]
    texts = [coloured(line, width) if wants_colour() else plain(line)[:width] for line in shown]
    if len(shown) < len(lines):
        texts.append(f"... {len(lines) - len(shown)} more lines")
    return _HOME + "".join(f"{text}{_CLEAR_LINE}\r\n" for text in texts) + _CLEAR_REST


@contextmanager
def _other_screen() -> Iterator[None]:
    """Without echo, so that a key is not drawn into the picture."""
    fd = sys.stdin.fileno() if sys.stdin.isatty() else None
    saved = termios.tcgetattr(fd) if fd is not None else None
    sys.stdout.write(_ENTER)
    try:
        if fd is not None:
            tty.setcbreak(fd)
        yield
    finally:
        if fd is not None and saved is not None:
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


_NAMED = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\r": "enter", "\n": "enter", "\x1b": "escape"}


def _keys_within(seconds: float) -> list[str]:
    """The keys that were pressed, or none after so many seconds; "end" for ^C and a terminal that is gone."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return []
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return keys(os.read(sys.stdin.fileno(), 64)) if ready else []


def keys(typed: bytes) -> list[str]:
    """What a terminal sent, as keys; sequences that mean nothing here are left out.

    >>> keys(b"c\\x1b[A"), keys(b""), keys(b"\\x1b[5~r")
    (['c', 'up'], ['end'], ['r'])
    """
    if not typed or b"\x03" in typed:
        return ["end"]
    found = _KEY.findall(typed.decode("utf-8", "replace"))
    return [_NAMED.get(key, key) for key in found if len(key) == 1 or key in _NAMED]
