"""From the declaration of a worker to its Launch: everything it names is looked up, everything relative is resolved."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

from otpd.supervisor import initargs, places
from otpd.supervisor.entries import Entry, Report
from otpd.supervisor.problems import Invalid
from otpd.supervisor.spec import Inbox, Launch, Limits

T = TypeVar("T")


class Launches:
    """Resolves workers against a directory, that of their file; what is not there goes into the report.

    `cwd` is where those run who say nothing about it: the same directory, if it is not given.
    """

    def __init__(self, base: str, report: Report, cwd: str | None = None) -> None:
        self.base = base
        self.cwd = base if cwd is None else cwd
        self.report = report
        self.signatures: dict[str, initargs.Signature | None] = {}

    def launch(self, entry: Entry) -> Launch:
        """How the worker of `entry` is started; what can't be resolved is reported and left out."""
        values = entry.values
        is_agent = entry.section == "agents"
        self.check_what_runs(entry)
        cwd = self.look_up(entry, "cwd", lambda value: places.directory(value, self.base)) or self.cwd
        env_file = self.look_up(entry, "env_file", lambda value: places.env_file(value, self.base))
        env = {**(env_file or {}), **values.get("env", {})}
        script = self.look_up(entry, "script", lambda value: places.script(value, self.base))
        if is_agent and script and "args" not in entry.wrong:
            self.check_args(entry, script)
        return Launch(
            kind="agent" if is_agent else "program",
            script=script,
            command=self.look_up(entry, "command", lambda value: (places.executable(value[0], cwd, env), *value[1:])),
            args=values.get("args", {}) if is_agent else {},
            argv=() if is_agent else values.get("args", ()),
            ready=values.get("ready", "init" if is_agent else "spawned"),
            start_timeout=values.get("start_timeout", 10.0),
            stop_signal=values.get("stop_signal", 15),
            env=env,
            cwd=cwd,
            user=self.look_up(entry, "user", places.user),
            umask=values.get("umask"),
            limits=_limits(values.get("limits", {})),
            watchdog=values.get("watchdog"),
            health=values.get("health"),
            restart_when=values.get("restart_when"),
            group=entry.name if len(entry.children) > 1 else None,
            inbox=Inbox(**values.get("inbox", {})),
            spawn=values.get("spawn", "warn") if is_agent else "allow",
            commands=tuple(values["commands"]) if "commands" in values else None,
            detach=values.get("detach", False),
        )

    def look_up(self, entry: Entry, key: str, resolve: Callable[[Any], T]) -> T | None:
        if key not in entry.values:
            return None
        try:
            return resolve(entry.values[key])
        except Invalid as error:
            self.report.add((*entry.path, key), error)
            return None

    def check_what_runs(self, entry: Entry) -> None:
        """A worker has exactly one of script and command; an agent's command is an agent in another language."""
        if not {"script", "command"} & (entry.values.keys() | entry.wrong):
            sample = f'script = "{entry.section}/{entry.name}.py"'
            sample += "" if entry.section == "agents" else ' or command = ["PROGRAM", "ARGUMENT"]'
            self.report.add(entry.path, Invalid(what=f"nothing to run: expected {sample}"))
        if entry.values.keys() >= {"script", "command"}:
            self.report.add((*entry.path, "command"), Invalid(expected="one of script and command", got="both"))
        if entry.section == "programs" and entry.values.keys() >= {"args", "command"}:
            what = "arguments of a command go into the array command itself"
            self.report.add((*entry.path, "args"), Invalid(what=what))

    def check_args(self, entry: Entry, script: str) -> None:
        try:
            found = self.signature(script)
        except OSError as error:
            self.report.add((*entry.path, "script"), Invalid(what=f"{script} can't be read: {error.strerror}"))
            return
        if found:
            for wrong in initargs.check(found, entry.values.get("args", {}), os.path.relpath(script, self.base)):
                self.report.add(entry.path, wrong)

    def signature(self, script: str) -> initargs.Signature | None:
        if script not in self.signatures:
            with open(script, "rb") as file:
                self.signatures[script] = initargs.signature(file.read())
        return self.signatures[script]


def _limits(values: dict[str, Any]) -> Limits:
    cpu = values.get("cpu")
    return Limits(**{**values, "cpu": math.ceil(cpu) if cpu is not None else None})
