"""A picture that is drawn again and again on the terminal's other screen, until q or ^C. The terminal is left as it was."""

from __future__ import annotations

import os
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
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(frame: Callable[[], list[Line]], interval: float = 1.0) -> None:
    """Show `frame()` every `interval` seconds. Failure 2 when stdout is no terminal."""
    if not sys.stdout.isatty():
        raise Failure(Exit.USAGE, "a live picture needs a terminal, but stdout is none", "leave out -w, or add --json")
    with _other_screen():
        while True:
            sys.stdout.write(_drawn(frame()))
            sys.stdout.flush()
            if _quit_within(interval):
                return


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


def _quit_within(seconds: float) -> bool:
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and os.read(sys.stdin.fileno(), 64)[:1].lower() in (b"q", b"\x03", b"")
