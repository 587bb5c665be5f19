"""What root shows of itself: its tables as the JSON of the contract (DESIGN section 7). Reads, never asks, never changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from otpd.supervisor.control import OperationError
from otpd.supervisor.pools import TASKS
from otpd.supervisor.services import HEALTH, is_own
from otpd.supervisor.spec import SPEAKING, Backoff, Launch
from otpd.supervisor.tree import SupervisorView, WorkerView

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

SCHEMA = "otpd/1"
#: Seconds for which a program that is ready as soon as it is spawned must live to count as ready.
SETTLED = 0.25
View = SupervisorView | WorkerView


def tree(root: Root) -> dict[str, Any]:
    """`otpd tree --json`."""
    return {"schema": SCHEMA, "node": node(root), "tree": _supervisor(root, root.tree.snapshot(root.loop.now))}


def node(root: Root) -> dict[str, Any]:
    return {
        "name": root.node.name,
        "pid": os.getpid(),
        "heart_pid": root.heart_pid,
        "version": root.version,
        "started_at": root.started_at,
        "uptime_s": round(root.loop.now - root.began, 3),
        "alerts": [*root.health.alerts.values()],
    }


def node_facts(root: Root) -> dict[str, Any]:
    """The node and what `otpd doctor` asks for."""
    return {
        **node(root),
        "state": root.phase,
        "config": root.node.config,
        "state_dir": root.node.state_dir,
        "runtime_dir": str(root.paths.runtime_dir),
        "node_id": root.node_id,
        "zygote_pid": root.zygote.pid,
        "logger_pid": root.logger.pid,
        "blanks": root.zygote.blanks,
        "ladder": root.ladder_name,
        "children": sum(1 for view in _workers(root.tree.snapshot(root.loop.now)) if not is_own(view.path)),
        "descriptors": _descriptors(),
    }


def _descriptors() -> int | None:
    """None when there is none left to count them with."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None


def workers(root: Root) -> list[dict[str, Any]]:
    """Every worker, flat, in the order of the tree."""
    return [_worker(root, view) for view in _workers(root.tree.snapshot(root.loop.now))]


def names(root: Root) -> list[str]:
    return [view.name for view in _all(root.tree.snapshot(root.loop.now)) if "/" in view.path]


def meant(root: Root) -> dict[str, list[str]]:
    """What each name, path as people see it, and group stands for: the tree's paths, in its order."""
    groups: dict[str, list[str]] = {}
    children: dict[str, list[str]] = {}
    for view in _all(root.tree.snapshot(root.loop.now)):
        if "/" in view.path:
            for name in (view.name, root.shown(view.path)):
                children.setdefault(name, [view.path])
            if isinstance(view.spec.start, Launch) and view.spec.start.group is not None:
                groups.setdefault(view.spec.start.group, []).append(view.path)
    return groups | children


def group(root: Root, name: str) -> list[str]:
    """The paths of the instances that share the name `name`."""
    found = _workers(root.tree.snapshot(root.loop.now))
    return [v.path for v in found if isinstance(v.spec.start, Launch) and v.spec.start.group == name]


def why(root: Root, path: str) -> dict[str, Any]:
    """The last deaths of a child, and what comes next."""
    view = _find(root, path)
    above = _find(root, path.rpartition("/")[0])
    parent = above if isinstance(above, SupervisorView) else above.own
    assert parent is not None
    backoff = view.spec.backoff
    return {
        "name": view.name,
        "path": root.shown(view.path),
        "type": str(view.type),
        "state": view.state,
        "generation": view.generation,
        "restarts": view.restarts,
        "restart": str(view.spec.restart),
        "what": _what(root, view),
        "supervisor": root.shown(parent.path) or root.node.name,
        "strategy": str(parent.flags.strategy if root.tree.is_own(path) else parent.strategy),
        "max_restarts": parent.max_restarts,
        "max_seconds": parent.max_seconds,
        "restarts_in_window": parent.restarts_in_window,
        "backoff": _backoff(backoff),
        "next_attempt_s": _seconds_to(root, view),
        "waits_for": _waits_for(root, above),
        "spawn": _spawn(root, view),
        "deaths": [death.to_dict() for death in root.journal.deaths(view.name)],
    }


def _waits_for(root: Root, above: View) -> dict[str, Any] | None:
    """A supervisor that is down, or on its way: nothing below it is started meanwhile."""
    if above.state == "running":
        return None
    name = root.shown(above.path) or root.node.name
    return {"name": name, "state": above.state, "next_attempt_s": _seconds_to(root, above)}


def not_yet(root: Root, path: str | None, wanted: str) -> str | None:
    """What keeps the node, or the child at `path`, from being "ready" or "down"; None when it is so.

    Asked after every change while somebody waits: while the tree starts it must not cost a walk over it.
    """
    if path is None and wanted == "ready" and root.phase != "running":
        return "the tree is still starting" if root.phase == "starting" else "the node is stopping"
    view = root.tree.snapshot(root.loop.now) if path is None else root.tree.view(path, root.loop.now)
    if view is None:
        _refuse_to_wait(root, path or "", wanted)
        return None
    late = [v for v in _leaves(view) if not _is(v, wanted) or (wanted == "ready" and not _settled(root, v))]
    return None if not late else ", ".join(f"{v.name} is {v.state}{_because(v)}" for v in late[:10])


def _refuse_to_wait(root: Root, path: str, wanted: str) -> None:
    """The child is no more: it has ended and was temporary, or somebody deleted it. So it is down, and never ready."""
    if wanted == "ready":
        raise OperationError(4, f"{root.shown(path)} is not in the tree any more", "see what is with: otpd tree")


def busy(root: Root) -> str:
    """What is not running and why, for somebody who has waited in vain."""
    views = _all(root.tree.snapshot(root.loop.now))
    return ", ".join(f"{v.name} is {v.state}{_because(v)}" for v in views if v.state != "running" and "/" in v.path)[:500]


def _because(view: View) -> str:
    return f" ({view.reason})" if view.reason and view.state != "running" else ""


def _is(view: View, wanted: str) -> bool:
    down = view.state in ("stopped", "failed")
    if wanted == "down":
        return down
    return view.state == "running" or (down and _rests(view))


def _settled(root: Root, view: View) -> bool:
    """One that says nothing of itself, or has died before, is believed to be ready only when it has lived for a while."""
    if not isinstance(view, WorkerView) or view.ready_at is None or view.state != "running":
        return True
    assert isinstance(view.spec.start, Launch)
    mute = view.spec.start.ready == "spawned" or view.restarts > 0
    return not mute or root.loop.now - view.ready_at >= SETTLED


def _rests(view: View) -> bool:
    """It is down because that is how it should be: it declined, finished, or was stopped by hand."""
    return view.state == "stopped"


def _find(root: Root, path: str) -> View:
    view = root.tree.view(path, root.loop.now)
    assert view is not None
    return view


def _all(view: View) -> Iterator[View]:
    yield view
    for child in view.children:
        yield from _all(child)


def _leaves(view: View) -> Iterator[View]:
    """Workers with their own children, and supervisors that have nothing below them because they do not run."""
    if isinstance(view, WorkerView) or (view.state != "running" and not view.children):
        yield view
    for child in view.children:
        yield from _leaves(child)


def _workers(view: View) -> Iterator[WorkerView]:
    return (found for found in _all(view) if isinstance(found, WorkerView))


def _node_of(root: Root, view: View) -> dict[str, Any]:
    if isinstance(view, SupervisorView):
        return _supervisor(root, view)
    below = [_node_of(root, child) for child in view.children]
    return _worker(root, view) | ({"children": below} if below else {})


def _supervisor(root: Root, view: SupervisorView) -> dict[str, Any]:
    top = "/" not in view.path
    return {
        "name": root.node.name if top else view.name,
        "path": root.shown(view.path),
        "type": "supervisor",
        "state": view.state,
        "strategy": str(view.strategy),
        "max_restarts": view.max_restarts,
        "max_seconds": view.max_seconds,
        "restarts_in_window": view.restarts_in_window,
        "restarts": view.restarts,
        "generation": view.generation,
        "restart": str(view.spec.restart),
        "next_attempt_s": _seconds_to(root, view),
        "what": _what(root, view),
        "children": [_node_of(root, child) for child in view.children if not _is_unused(child)],
    }


def _is_unused(view: View) -> bool:
    """The supervisor of pools that nobody has wanted yet."""
    return view.name == TASKS and view.path.count("/") == 1 and not view.children


def _worker(root: Root, view: WorkerView) -> dict[str, Any]:
    live = root.workers.live(view.path)
    death = root.journal.last_death(view.name)
    launch = view.spec.start
    assert isinstance(launch, Launch)
    return {
        "name": view.name,
        "path": root.shown(view.path),
        "type": "worker",
        "kind": launch.kind,
        "state": view.state,
        "pid": live.pid if live else None,
        "generation": view.generation,
        "restarts": view.restarts,
        "uptime_s": round(root.loop.now - live.began, 3) if live else None,
        "restart": str(view.spec.restart),
        "health": root.health.state_of(live, launch) if live else None,
        "last_exit": death.summary() if death else None,
        "next_attempt_s": _seconds_to(root, view),
        "what": _what(root, view),
        "group": launch.group,
        **({"tasks": live.counts} if live is not None and live.counts is not None else {}),
        **({"alerts": [*root.health.alerts.values()]} if _tells_alerts(root, view, launch) else {}),
        "runtime": view.path in root.runtime or root.tree.is_own(view.path),
        **({"spawn": root.spawns.counts(view.name, launch)} if launch.kind in SPEAKING else {}),
    }


def _what(root: Root, view: View) -> str | None:
    """Why it does not run; of one that does, that nothing is heard of it."""
    if view.state != "running":
        return _in_words(view.reason) if view.reason else None
    live = root.workers.live(view.path)
    return live.silence(root.loop.now) if live else None


def _in_words(reason: Any) -> str:
    """Of a supervisor that did not start, it is a list: what, which child, and that one's reason."""
    return ": ".join(map(_in_words, reason)) if isinstance(reason, list | tuple) else str(reason)


def _tells_alerts(root: Root, view: View, launch: Launch) -> bool:
    """What is wrong with the machine stands in the row of the service that has found it."""
    return launch.kind == "service" and view.name == HEALTH and bool(root.health.alerts)


def _spawn(root: Root, view: View) -> dict[str, Any] | None:
    launch = view.spec.start
    if not isinstance(launch, Launch) or launch.kind not in SPEAKING:
        return None
    return root.spawns.details(view.name, launch)


def _seconds_to(root: Root, view: View) -> float | None:
    return None if view.next_attempt is None else round(max(0.0, view.next_attempt - root.loop.now), 3)


def _backoff(backoff: Backoff | None) -> dict[str, float] | None:
    if backoff is None:
        return None
    return {name: getattr(backoff, name) for name in ("initial", "factor", "max", "jitter", "reset_after")}
