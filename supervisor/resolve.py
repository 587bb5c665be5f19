"""Finds the configuration that a command means: `--config`, `$OTPD_CONFIG`, or the nearest otpd.toml upwards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otpd.supervisor.problems import ConfigErrors, Problem

if TYPE_CHECKING:
    from otpd.supervisor.spec import NodeSpec

FILE_NAME: Final = "otpd.toml"


def find_config(option: str | None, env: Mapping[str, str], cwd: str | os.PathLike[str]) -> Path:
    """The absolute path of the configuration; ConfigErrors when there is none. A named file wins and must exist."""
    if option is not None:
        return _named(option, "--config", Path(cwd))
    if env.get("OTPD_CONFIG"):
        return _named(env["OTPD_CONFIG"], "$OTPD_CONFIG", Path(cwd))
    start = Path(os.path.abspath(cwd))
    for directory in (start, *start.parents):
        if (directory / FILE_NAME).is_file():
            return directory / FILE_NAME
    what = f"no {FILE_NAME} here or above; `otpd init` writes one, or name it with --config or $OTPD_CONFIG"
    raise ConfigErrors([Problem(file=str(start / FILE_NAME), what=what)])


def load_node(path: str | os.PathLike[str]) -> NodeSpec:
    """The node that a configuration describes: Python data when its name ends with .py, else TOML."""
    if os.fspath(path).endswith(".py"):
        from otpd.supervisor import treefile

        return treefile.load(path)
    from otpd.supervisor import config

    return config.load(path)


def _named(value: str, source: str, cwd: Path) -> Path:
    path = Path(os.path.abspath(cwd / value))
    if path.is_dir():
        path = path / FILE_NAME
    if not path.exists():
        what = f"no such file, named by {source}; `otpd init` writes a first {FILE_NAME}"
        raise ConfigErrors([Problem(file=str(path), what=what)])
    return path
