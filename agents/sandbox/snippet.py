"""A piece of Python source, run in an interpreter that is already warm, as `python3 -c` would run it in a new one."""

from __future__ import annotations

import atexit
import io
import os
import sys
import types
from typing import NoReturn

NAME = "<exec_python>"
_STREAMS = (
    (0, "stdin", "r", "surrogateescape"),
    (1, "stdout", "w", "surrogateescape"),
    (2, "stderr", "w", "backslashreplace"),
)


def warm() -> None:
    """What nearly every snippet needs, and its errors. Once per nest, before anything of a command is there.

    Nothing that holds random state: it would be the same in all runs.
    """
    import linecache  # noqa: F401
    import site
    import traceback  # noqa: F401

    site.main()


def run(code: bytes) -> NoReturn:
    """Runs `code` as __main__ with fresh standard streams and ends the process with the status that Python would."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "otpd"]:
        del sys.modules[name]  # those of the nest; a snippet that imports otpd means another one
    _fresh_streams()
    status = _execute(code)
    _finish()
    os._exit(_flushed(status))


def _fresh_streams() -> None:
    """Those of the nest are bound to what 0 to 2 were when it started. Unbuffered if PYTHONUNBUFFERED says so."""
    direct = bool(os.environ.get("PYTHONUNBUFFERED"))
    for fd, name, mode, errors in _STREAMS:
        stream = open(fd, mode, buffering=1 if fd == 2 else -1, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper) and fd:
            stream.reconfigure(write_through=direct)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _execute(code: bytes) -> int:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        exec(compile(code, NAME, "exec"), main.__dict__)
    except SystemExit as leave:
        return _status(leave)
    except BaseException as error:
        _show(error, code)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _status(leave: SystemExit) -> int:
    """As the interpreter reads sys.exit()'s argument."""
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code & 0xFF
    print(leave.code, file=sys.stderr)
    return 1


def _show(error: BaseException, code: bytes) -> None:
    """The traceback from the snippet's first frame on, with its source lines."""
    import linecache
    import traceback

    lines = code.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[NAME] = (len(code), None, lines, NAME)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != NAME:
        trace = trace.tb_next
    error = error.with_traceback(trace)
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(error)
    else:
        sys.excepthook(type(error), error, trace)


def _finish() -> None:
    """What the interpreter does at its end: wait for threads, call atexit's functions."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()


def _flushed(status: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120  # as Python says that its output is lost
    return status
