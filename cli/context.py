"""Which node a command is about: the config, the directories that follow from it, and a connection to root.

Found cheaply: no command but `check`, `start` and `reload` reads the whole config, so a broken file never keeps anybody
from looking at a running node or stopping it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from otpd.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from otpd.cli.client import Client
    from otpd.supervisor.paths import NodePaths
    from otpd.supervisor.spec import NodeSpec

STATE = ".otpd"
_STATE_DIR = re.compile(r"""^\s*(?:node\.)?state_dir\s*=\s*(?:"([^"\\]*)"|'([^']*)')\s*(?:#.*)?$""", re.MULTILINE)


class Context:
    """Lives for one command. `option` is what -f/--config said."""

    def __init__(self, option: str | None = None) -> None:
        self.option = option

    def config(self) -> Path:
        """The absolute path of the config: -f/--config, $OTPD_CONFIG, or the nearest otpd.toml upwards."""
        from otpd.supervisor.resolve import find_config

        return find_config(self.option, os.environ, here())

    def paths(self) -> NodePaths:
        """Where the node keeps its files. Without any config the nearest directory that holds a node's state counts."""
        from otpd.supervisor.paths import node_paths
        from otpd.supervisor.problems import ConfigErrors

        try:
            config = self.config()
        except ConfigErrors:
            state = None if self.option or os.environ.get("OTPD_CONFIG") else _nearest_state()
            if state is None:
                raise
            return node_paths(state)
        return node_paths(state_dir_of(config))

    def control(self) -> Client:
        """A connection to root, to be closed by the caller; ControlError 7 when no node is running."""
        from otpd.cli.client import connect

        return connect(self.paths())

    def load(self) -> NodeSpec:
        """The whole config, validated and resolved; ConfigErrors with everything that is wrong."""
        from otpd.supervisor.resolve import load_node

        return load_node(self.config())


def state_dir_of(config: Path) -> Path:
    """node.state_dir of a config that need not be valid."""
    if config.suffix == ".py":
        return _state_dir_of_python(config)
    return config.parent / (_state_dir_in(config) or STATE)


def _state_dir_of_python(config: Path) -> Path:
    """A tree in Python has to be run for it; one that is broken now is taken to have the default."""
    from otpd.supervisor.problems import ConfigErrors
    from otpd.supervisor.treefile import load

    try:
        return Path(load(config).state_dir)
    except ConfigErrors:
        return config.parent / STATE


def _state_dir_in(config: Path) -> str | None:
    try:
        text = config.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        code = Exit.PERMISSION if isinstance(error, PermissionError) else Exit.USAGE
        raise Failure(code, f"can't read {config}: {error.strerror}", "name another one with: otpd -f FILE") from error
    if "state_dir" not in text:
        return None
    import tomllib

    try:
        node = tomllib.loads(text.replace("\r\n", "\n")).get("node")
        found = node.get("state_dir") if isinstance(node, dict) else None
    except (ValueError, RecursionError):
        match = _STATE_DIR.search(text)
        found = (match[1] or match[2]) if match else None
    return found if isinstance(found, str) else None


def _nearest_state() -> Path | None:
    start = Path(here())
    return next((place / STATE for place in (start, *start.parents) if (place / STATE / "lock").is_file()), None)


def here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise Failure(Exit.USAGE, "the current directory has been removed", "cd to another one") from None
