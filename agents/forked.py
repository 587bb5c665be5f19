"""The end of a process that a handler has forked and that comes back. It unwinds nothing, because it shares with its parent
the channel to root and the epoll of the loop.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Final, NoReturn

_BACK: Final = (
    "this process was forked from an agent and has come back from the handler that forked it; it is no agent, and ends "
    "here. End it in the handler with os._exit(0); to run functions use self.task(fn, ...), for commands self.exec([...])"
)


class Came(RuntimeError):
    """A fork has come back to the loop of its parent."""


def leave(error: BaseException) -> NoReturn:
    """With the status that `error` means, and its traceback where Python would print it."""
    status = 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if status and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif isinstance(error, Came):
        print(_BACK, file=sys.stderr)
    else:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
