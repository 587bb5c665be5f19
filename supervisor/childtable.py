"""From the table of `start_child` to a ChildSpec: an agent describes a child of its own in the words of otpd.toml.

The checks are those of the configuration, so the errors are too. What differs, because root itself reads this at run time,
from somebody whom it need not trust: no file is opened (the source of a script is not compared with `args`, there is no
`env_file`), no user is looked up, and no path is touched that might make root wait or that root sees with other eyes than
the owner. Those are found wrong when the child starts.

A child is started as its owner would have started a process: what the table does not say about environment, directory,
user, umask, limits and spawn it has from its owner, and more than its owner may it never gets. Paths are relative to the
directory of the owner's script (for a command: to its `cwd`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from otpd.supervisor import checks
from otpd.supervisor.entries import Entry, Report
from otpd.supervisor.launches import Launches
from otpd.supervisor.locate import Places
from otpd.supervisor.nodebuild import worker_spec
from otpd.supervisor.problems import Invalid, dotted, quote, show
from otpd.supervisor.sections import check_entry
from otpd.supervisor.spec import SPAWN_POLICIES, ChildSpec, Launch, Limits, SpawnPolicy

T = TypeVar("T")
MayHang = Callable[[Iterable[str]], bool]

#: Bytes of a name: a row of each of the children that an agent may have must fit into one packet.
MAX_NAME_BYTES: Final = 100
_MAX_DEPTH: Final = 32
_SAMPLE: Final = '{"name": "feed-7", "script": "feed.py", "args": {"symbol": "ACME"}}'
#: Keys of otpd.toml that mean nothing here, and why.
_SENSELESS: Final[Mapping[str, str]] = {
    "supervisor": "it is started below the agent that asks for it; leave this key out",
    "instances": "one call starts one child; start it again under another name",
    "significant": "an agent has no auto_shutdown; leave this key out, and monitor the child",
    "backoff": "own children restart at once, 3 times in 5 s, as below a supervisor that you write; leave this key out",
    "commands": "only agents of otpd.toml have such a list; leave this key out",
    "env_file": "root opens no files for a running agent; read it yourself and give the variables as env",
}


class TableError(ValueError):
    """What is wrong with the table; every mistake in one line of text."""


def child_of(table: Any, owner: Launch, may_hang: MayHang) -> ChildSpec:
    """The child that `table` describes, with `owner` as what its owner was started as. TableError."""
    if not isinstance(table, dict):
        raise TableError(f"expected a table such as {_SAMPLE}, got {show(table)}")
    try:
        _refuse_strange(table)
        name = _name(table)
        section = _section(table)
    except Invalid as error:
        raise TableError(_line("", error)) from None
    rest = {key: value for key, value in table.items() if key not in ("name", "kind", *_SENSELESS)}
    values, wrong = check_entry(section, rest)
    wrong += [Invalid(what=why).under(key) for key, why in _SENSELESS.items() if key in table]
    report = Report("", Places())
    entry = Entry(section, name, values, frozenset(each.path[0] for each in wrong if each.path))
    for each in wrong:
        report.add(entry.path, each)
    launch = _Launches(owner, report, may_hang).launch(entry)
    if report.problems:
        start = dotted(entry.path)
        lines = [_line(problem.key.removeprefix(start).lstrip("."), problem.what) for problem in report.problems]
        raise TableError(f"the table of {quote(name)}: {'; '.join(lines)}")
    return replace(worker_spec(entry, name, launch), backoff=None)


def _line(key: str, what: object) -> str:
    return f"{key}: {what}" if key else str(what)


def _refuse_strange(value: Any, depth: int = 0) -> None:
    """What no TOML file could hold: keys that are no strings, endless nesting."""
    if depth > _MAX_DEPTH:
        raise Invalid(expected=f"a table nested at most {_MAX_DEPTH} deep", got="a deeper one")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise Invalid(expected="strings as keys", got=show(key))
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_strange(item, depth + 1)


def _name(table: Mapping[str, Any]) -> str:
    if "name" not in table:
        raise Invalid(what=f"expected a key name, as in {_SAMPLE}; got none")
    try:
        name = checks.child_name(table["name"])
    except Invalid as error:
        raise Invalid(what=f"name: {error}") from None
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Invalid(what=f"name: expected at most {MAX_NAME_BYTES} bytes, got {len(name.encode())}")
    return name


def _section(table: Mapping[str, Any]) -> str:
    """A script is an agent and a command is a program, unless `kind` says the other thing."""
    kind = table.get("kind", "program" if "command" in table else "agent")
    try:
        return f"{checks.word('agent', 'program')(kind)}s"
    except Invalid as error:
        raise Invalid(what=f"kind: {error}") from None


class _Launches(Launches):
    """Against the owner's directory, with the owner's eyes."""

    def __init__(self, owner: Launch, report: Report, may_hang: MayHang) -> None:
        base = os.path.dirname(owner.script) if owner.script else owner.cwd
        super().__init__(base, report, owner.cwd)
        self._owner, self._may_hang = owner, may_hang

    def launch(self, entry: Entry) -> Launch:
        owner = self._owner
        env = {**owner.env, **entry.values.get("env", {})}
        found = super().launch(replace(entry, values={**entry.values, "env": env}))
        umask = owner.umask if found.umask is None else found.umask
        spawn = _stricter(entry.values.get("spawn", owner.spawn), owner.spawn) if found.kind == "agent" else found.spawn
        limits = _lesser(found.limits, owner.limits)
        return replace(found, user=found.user or owner.user, umask=umask, limits=limits, spawn=spawn)

    def look_up(self, entry: Entry, key: str, resolve: Callable[[Any], T]) -> T | None:
        if key not in entry.values:
            return None
        as_seen = self._owner.user is None and "user" not in entry.values
        if key == "user":
            resolve = self._user
        elif not as_seen or self._may_hang(self._touched(entry, key)):
            resolve = self._unseen
        return super().look_up(entry, key, resolve)

    def check_args(self, entry: Entry, script: str) -> None:
        """The agent itself compares them, and its start fails with what is wrong."""

    def _touched(self, entry: Entry, key: str) -> list[str]:
        """Absolute paths at which a look-up may look."""
        if key != "command":
            return [os.path.join(self.base, entry.values[key])]
        cwd = os.path.join(self.base, entry.values.get("cwd", self.cwd))
        search = entry.values["env"].get("PATH") or os.environ.get("PATH") or os.defpath
        places = [""] if "/" in entry.values[key][0] else search.split(os.pathsep)
        return [os.path.join(cwd, place, entry.values[key][0]) for place in places]

    def _unseen(self, value: Any) -> Any:
        """The absolute path, whatever is there; a command is found by the process that becomes it."""
        return os.path.normpath(os.path.join(self.base, value)) if isinstance(value, str) else value

    def _user(self, value: str) -> Any:
        owner = self._owner.user
        if owner is not None and value != owner:
            raise Invalid(expected=f"the user of its owner, {quote(owner)}, or no key user", got=quote(value))
        if owner is None and os.geteuid() != 0:
            raise Invalid(what=f"only root can start a worker as another user; you are uid {os.geteuid()}, drop this key")
        return value


def _stricter(own: SpawnPolicy, owner: SpawnPolicy) -> SpawnPolicy:
    return max(own, owner, key=SPAWN_POLICIES.index)


def _lesser(own: Limits, owner: Limits) -> Limits:
    """Of each limit the harder one."""
    names = ("memory", "files", "cpu", "processes", "core")
    pairs = {name: [limit for limit in (getattr(own, name), getattr(owner, name)) if limit is not None] for name in names}
    return replace(own, **{name: min(both, default=None) for name, both in pairs.items()})
