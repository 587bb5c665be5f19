"""From the tables of a configuration to a NodeSpec: names, parents and combinations checked, all paths resolved.

`build` neither knows TOML nor opens the configuration; `config` and `treefile` do and hand the tables over. All errors
are reported at once, in the order of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from otpd.supervisor import checks, commandtable, places
from otpd.supervisor.entries import Entry, Report
from otpd.supervisor.launches import Launches
from otpd.supervisor.locate import Places
from otpd.supervisor.problems import Invalid, KeyPath, dotted, nearest, quote, show
from otpd.supervisor.sections import NODE, SECTIONS, check_entry, check_pool, check_services
from otpd.supervisor.services import ENABLED, HEALTH
from otpd.supervisor.spec import (
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildType,
    Launch,
    LogPolicy,
    NodeSpec,
    Restart,
    Strategy,
    SupervisorSpec,
)

_MAX_DEPTH: Final = 32
_TABLES: Final = ("node", *SECTIONS, "services", "commands", "pools")
_NOTHING: Final = "nothing to run: expected [agents.NAME] or [programs.NAME]; `otpd init` writes an example"


def build(data: Mapping[str, Any], file: str, found: Places) -> NodeSpec:
    """The node that `data` describes; ConfigErrors with all that is wrong with it."""
    report = Report(file, found)
    base = os.path.dirname(os.path.abspath(file))
    for key in data:
        if key not in _TABLES:
            report.add((key,), _unknown_section(key))
    node = _node(data.get("node", {}), base, report)
    services, wrong = check_services(data.get("services", {}))
    for error in wrong:
        report.add(("services",), error)
    commands = _commands(data, base, report)
    node["pools"] = _pools(data.get("pools", {}), report)
    entries = _entries(data, report)
    _check_names(entries, report)
    supervisors = {entry.name: entry for entry in entries if entry.is_supervisor}
    _check_parents(entries, supervisors, report)
    for entry in entries:
        _check_significant(entry, supervisors, report)
        _check_watched(entry, services, report)
    resolve = Launches(base, report)
    launches = {entry.path: resolve.launch(entry) for entry in entries if not entry.is_supervisor}
    if not launches and not node["pools"] and not report.problems:
        report.add((), Invalid(what=_NOTHING if data else f"the file is empty; {_NOTHING}"))
    report.raise_all()
    top = SupervisorSpec(max_restarts=None, isolate=True, children=_children(None, entries, launches))
    return NodeSpec(config=os.path.abspath(file), top=top, services=services, commands=commands, **node)


def _check_watched(entry: Entry, services: Mapping[str, Mapping[str, Any]], report: Report) -> None:
    """Nobody may rely on a service that is left out."""
    if services.get(HEALTH, {}).get(ENABLED, True):
        return
    for key in entry.values.keys() & {"health", "restart_when"}:
        what = f"the health service looks at it, and enabled = false in [services.{HEALTH}] leaves that out"
        report.add((*entry.path, key), Invalid(what=what))


def _unknown_section(key: str) -> Invalid:
    guess = nearest(key, _TABLES)
    what = "unknown table" if guess else f"unknown table; known here: {', '.join(_TABLES)}"
    return Invalid(what=what, nearest=guess)


def _node(value: Any, base: str, report: Report) -> dict[str, Any]:
    found, wrong = checks.each_field(value, NODE)
    for error in wrong:
        report.add(("node",), error)
    state_dir = ""
    try:
        state_dir = places.state_dir(found.get("state_dir", ".otpd"), base)
    except Invalid as error:
        report.add(("node", "state_dir"), error)
    log = found.get("log", {})
    policy = LogPolicy(**{"max_bytes" if key == "max_size" else key: item for key, item in log.items()})
    return {"name": found.get("name", _default_name(base)), "state_dir": state_dir, "log": policy}


def _commands(data: Mapping[str, Any], base: str, report: Report) -> dict[str, Any] | None:
    if "commands" not in data:
        return None
    table, wrong = commandtable.check(data["commands"], base)
    for error in wrong:
        report.add(("commands",), error)
    return table


def _pools(value: Any, report: Report) -> dict[str, Any]:
    if not isinstance(value, dict):
        report.add(("pools",), Invalid(expected="tables [pools.NAME]", got=show(value)))
        return {}
    pools = {}
    for name, table in value.items():
        try:
            checks.child_name(name)  # a service is reached by its name as a pool is
        except Invalid as error:
            report.add(("pools", name), error)
        pools[name], wrong = check_pool(table)
        for each in wrong:
            report.add(("pools", name), each)
    return pools


def _default_name(base: str) -> str:
    try:
        return checks.name(os.path.basename(base))
    except Invalid:
        return "node"


def _entries(data: Mapping[str, Any], report: Report) -> list[Entry]:
    """All supervisors, agents and programs in the order in which they first appear."""
    entries = []
    for section, tables in data.items():
        if section not in SECTIONS:
            continue
        if not isinstance(tables, dict):
            report.add((section,), Invalid(expected=f"tables [{section}.NAME]", got=show(tables)))
            continue
        for name, value in tables.items():
            values, wrong = check_entry(section, value)
            keys = (error.path[:1] or SECTIONS[section] for error in wrong)  # no path: the whole table is wrong
            entries.append(Entry(section, name, values, frozenset(key for some in keys for key in some)))
            for error in wrong:
                report.add((section, name), error)
    return sorted(entries, key=lambda entry: report.found.at(entry.path))


def _check_names(entries: Iterable[Entry], report: Report) -> None:
    taken: dict[str, Entry] = {}
    for entry in entries:
        try:
            checks.child_name(entry.name)
            checks.child_name(entry.children[-1])
        except Invalid as error:
            report.add(entry.path, error)
            continue
        # The group of several instances is an address too.
        clash = next((name for name in (entry.name, *entry.children) if name in taken), None)
        if clash is not None:
            report.add(entry.path, _duplicate(clash, taken[clash], report))
        for name in (entry.name, *entry.children):
            taken.setdefault(name, entry)


def _duplicate(name: str, owner: Entry, report: Report) -> Invalid:
    line, _ = report.found.at(owner.path)
    place = f" (line {line})" if line else ""
    of = dotted(owner.path) if owner.name == name else f"an instance of {dotted(owner.path)}"
    return Invalid(what=f"the name {quote(name)} is taken by {of}{place}; names are unique in the node")


def _check_parents(entries: Iterable[Entry], supervisors: Mapping[str, Entry], report: Report) -> None:
    entries = tuple(entries)
    kinds = {entry.name: entry.section for entry in entries}
    for entry in entries:
        try:
            _check_parent(entry, supervisors, kinds)
        except Invalid as error:
            report.add((*entry.path, "supervisor"), error)


def _check_parent(entry: Entry, supervisors: Mapping[str, Entry], kinds: Mapping[str, str]) -> None:
    parent = entry.parent
    if parent is None:
        return
    if parent not in supervisors:
        expected = "the name of a supervisor in this file"
        if parent in kinds:
            raise Invalid(expected=expected, got=f"{dotted((kinds[parent], parent))}, which is a worker")
        what = "leave the key out for the top" if parent == "top" else ""
        guess = nearest(parent, supervisors)
        if not guess and not what:
            what = f"there is {dotted(('supervisors', next(iter(supervisors))))}" if supervisors else "it has none"
        raise Invalid(expected=expected, got=quote(parent), what=what, nearest=guess)
    chain = [entry.name]
    while parent is not None and parent in supervisors and parent not in chain and len(chain) <= _MAX_DEPTH:
        chain.append(parent)
        parent = supervisors[parent].parent
    if parent == entry.name:
        raise Invalid(what=f"a supervisor can't be its own ancestor: {' -> '.join([*chain, parent])}")
    if len(chain) > _MAX_DEPTH:
        raise Invalid(expected=f"at most {_MAX_DEPTH} supervisors inside each other", got="more")


def _check_significant(entry: Entry, supervisors: Mapping[str, Entry], report: Report) -> None:
    """Rule 17: the two combinations that OTP refuses."""
    if not entry.values.get("significant"):
        return
    path = (*entry.path, "significant")
    parent = supervisors.get(entry.parent or "")
    if parent is None or parent.values.get("auto_shutdown", "never") == "never":
        who = f"supervisors.{parent.name}" if parent else "the top supervisor"
        what = f"significant = true does nothing below {who}, whose auto_shutdown is never; "
        change = 'set its auto_shutdown to "any_significant" or "all_significant"'
        report.add(path, Invalid(what=what + (change if parent else "put it in a supervisor")))
    if entry.values.get("restart", "permanent") == "permanent":
        what = "a permanent child is always restarted and can't be significant; "
        report.add(path, Invalid(what=what + 'set restart = "transient" or "temporary"'))


def _children(
    parent: str | None, entries: Sequence[Entry], launches: Mapping[KeyPath, Launch]
) -> tuple[ChildSpec, ...]:
    """The child specs below `parent` in the order of the file."""
    found: list[ChildSpec] = []
    for entry in entries:
        if entry.parent != parent:
            continue
        if entry.is_supervisor:
            found.append(_child(entry, entry.name, _supervisor(entry, entries, launches)))
        else:
            found.extend(worker_spec(entry, name, launches[entry.path]) for name in entry.children)
    return tuple(found)


def _supervisor(entry: Entry, entries: Sequence[Entry], launches: Mapping[KeyPath, Launch]) -> SupervisorSpec:
    values = entry.values
    return SupervisorSpec(
        strategy=Strategy(values.get("strategy", "one_for_one")),
        max_restarts=values.get("max_restarts", 3),
        max_seconds=values.get("max_seconds", 5),
        auto_shutdown=AutoShutdown(values.get("auto_shutdown", "never")),
        children=_children(entry.name, entries, launches),
    )


def worker_spec(entry: Entry, name: str, launch: Launch) -> ChildSpec:
    """The child spec of the worker `name` that `entry` declares, with its defaults."""
    return _child(entry, name, launch)


def _child(entry: Entry, name: str, start: SupervisorSpec | Launch) -> ChildSpec:
    """At the top a child has a back-off unless it says false; below a supervisor it has none unless it says so."""
    values = entry.values
    supervisor = entry.is_supervisor
    return ChildSpec(
        id=name,
        start=start,
        restart=Restart(values.get("restart", "permanent")),
        shutdown=values.get("shutdown", INFINITY if supervisor else 5.0),
        type=ChildType.SUPERVISOR if supervisor else ChildType.WORKER,
        significant=values.get("significant", False),
        backoff=values.get("backoff", Backoff() if entry.parent is None else None),
    )
