"""Which node `connect()` means: the control socket of the one that a config belongs to.

By argument, $OTPD_CONTROL (set for every process of a node), $OTPD_CONFIG, or the nearest otpd.toml upwards. Only as much
of the config is read as names its state directory; a node says there where its sockets are.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from otpd.agents.errors import NodeNotRunning

_CONFIG: Final = "otpd.toml"
_STATE: Final = ".otpd"
_START: Final = "start it with: otpd start"


def control_socket(config: str | os.PathLike[str] | None, env: Mapping[str, str], here: Path) -> Path:
    """NodeNotRunning says what was looked for. `config` may be a config, its directory, or a control socket."""
    if config is None and env.get("OTPD_CONTROL"):
        return Path(env["OTPD_CONTROL"])
    named = config or env.get("OTPD_CONFIG")
    path = here / named if named else _nearest(here)
    if path.is_dir():
        path /= _CONFIG
    if _is_socket(path):
        return path
    if not path.is_file():
        raise NodeNotRunning(f"expected the otpd.toml of a node, or its directory, got {path}: no such file")
    return _runtime(path, path.parent / _state_dir(path)) / "control.sock"


def _nearest(here: Path) -> Path:
    for place in (here, *here.parents):
        if (place / _CONFIG).is_file():
            return place / _CONFIG
    raise NodeNotRunning(
        f"no {_CONFIG} in {here} or above it; say which node is meant: connect('path/to/{_CONFIG}'), or set OTPD_CONFIG"
    )


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _state_dir(config: Path) -> str:
    """A tree in Python would have to be run to know more than the default; OTPD_CONTROL helps those."""
    if config.suffix == ".py":
        return _STATE
    try:
        node: Any = tomllib.loads(config.read_bytes().decode("utf-8-sig")).get("node")
    except (OSError, ValueError) as error:
        raise NodeNotRunning(f"can't read {config}: {error}; look at it with: otpd check") from None
    found = node.get("state_dir", _STATE) if isinstance(node, dict) else _STATE
    return found if isinstance(found, str) else _STATE


def _runtime(config: Path, state: Path) -> Path:
    """Where the sockets are; a state directory that was copied with its project names those of the other node."""
    try:
        runtime = Path(os.fsdecode((state / "runtime").read_bytes()))
        place = (state / "place").read_text(errors="replace")
        found = os.stat(state)
    except OSError:
        raise NodeNotRunning(f"the node of {config} is not running; {_START}") from None
    if not runtime.is_absolute() or place != f"{found.st_dev}:{found.st_ino}":
        raise NodeNotRunning(f"the node of {config} is not running: {state} was copied from another one; {_START}")
    return runtime
