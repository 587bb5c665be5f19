"""A tree under test, driven by hand or answered automatically; what it says as short strings, for whole-value asserts.

"spawn a 1", "stop a 1 5.0", "abort a 1", "end a 1 why", "arm 1 0.1 a", "cancel 1", "started", "ended shutdown",
"gave up shutdown", "reply ok" and, where notices are wanted, "notice child_exited a 1". Paths are written without the top.
"""

from __future__ import annotations

from typing import Any

from otpd.supervisor.events import (
    AbortStart,
    ArmTimer,
    Boot,
    CancelTimer,
    Effect,
    EndWorker,
    Event,
    Exited,
    Notice,
    Op,
    Reply,
    Request,
    Spawn,
    StartChild,
    Started,
    StartFailed,
    StartIgnored,
    Stop,
    TimerFired,
    TreeEnded,
    TreeStarted,
)
from otpd.supervisor.spec import INFINITY, ChildSpec, ChildType, SupervisorSpec
from otpd.supervisor.tree import Tree, View


def worker(name: str, **fields: Any) -> ChildSpec:
    return ChildSpec(id=name, start="how", **fields)


def supervisor(name: str, *children: ChildSpec, **flags: Any) -> ChildSpec:
    """Fields of ChildSpec among `flags` go to the child spec, the others to the supervisor's."""
    own = {key: flags.pop(key) for key in ("restart", "shutdown", "significant", "backoff") if key in flags}
    spec = SupervisorSpec(children=children, **flags)
    return ChildSpec(id=name, start=spec, type=ChildType.SUPERVISOR, **({"shutdown": INFINITY} | own))


class Rig:
    """`alive` and `starting` are what the shell would have; `now` is moved by `at`."""

    def __init__(self, *children: ChildSpec, **flags: Any) -> None:
        gate = {"gate": flags.pop("gate")} if "gate" in flags else {}
        self.tree = Tree(supervisor("top", *children, **flags), **gate)
        self.now = 0.0
        self.starting: dict[str, int] = {}
        self.alive: dict[str, int] = {}
        self.timers: dict[int, float] = {}
        self.notices: list[Notice] = []
        self.trace: list[str] = []
        self.fails: dict[str, Any] = {}  # path -> reason, or "ignore": what `settle` answers a Spawn with
        self._requests = 0
        self._open: list[str] = []

    # --- driving by hand ---

    def feed(self, event: Event) -> list[str]:
        """What the tree says to one event."""
        said = [line for effect in self.tree.handle(event, self.now) if (line := self._note(effect))]
        self.trace += said
        return said

    def boot(self) -> Rig:
        self.feed(Boot())
        self.settle()
        self.trace.clear()
        return self

    def at(self, now: float) -> Rig:
        self.now = now
        return self

    def up(self, name: str) -> list[str]:
        """It is ready."""
        generation = self.starting.pop(name)
        self.alive[name] = generation
        return self.feed(Started(f"top/{name}", generation))

    def fail(self, name: str, reason: Any = "fail") -> list[str]:
        return self.feed(StartFailed(f"top/{name}", self.starting.pop(name), reason))

    def ignore(self, name: str) -> list[str]:
        return self.feed(StartIgnored(f"top/{name}", self.starting.pop(name)))

    def gone(self, name: str, reason: str = "error(1)") -> list[str]:
        """Its process is gone, by itself or because it was stopped."""
        table = self.alive if name in self.alive else self.starting
        return self.feed(Exited(f"top/{name}", table.pop(name), reason))

    def fire(self, token: int) -> list[str]:
        self.now = max(self.now, self.timers.pop(token))
        return self.feed(TimerFired(token))

    def ask(self, op: Op) -> list[str]:
        self._requests += 1
        return self.feed(Request(self._requests, op))

    def start_own(self, owner: str, *children: ChildSpec) -> list[str]:
        """The present incarnation of `owner` asks for children of its own."""
        generation = (self.alive | self.starting)[owner]
        return [line for spec in children for line in self.ask(StartChild(f"top/{owner}", spec, owner=generation))]

    # --- driving automatically ---

    def settle(self) -> list[str]:
        """Answer every start (ready, or as `fails` says) and every stop (shutdown) until nothing is open."""
        done: list[str] = []
        while open_ := [line for line in self.open if line not in done]:
            done.append(open_[0])
            word, name = open_[0].split()[:2]
            if word != "spawn":
                self.gone(name, {"abort": "killed", "end": "error(children)"}.get(word, "shutdown"))
            elif name not in self.fails:
                self.up(name)
            elif self.fails[name] == "ignore":
                self.ignore(name)
            else:
                self.fail(name, self.fails[name])
        return self.trace

    def crash(self, name: str, reason: str = "error(1)") -> list[str]:
        """It ends, and everything that follows; gives what was said since."""
        self.trace = []
        self.gone(name, reason)
        return self.settle()

    def request(self, op: Op) -> list[str]:
        self.trace = []
        self.ask(op)
        return self.settle()

    def run(self, event: Event) -> list[str]:
        self.trace = []
        self.feed(event)
        return self.settle()

    # --- looking ---

    @property
    def open(self) -> list[str]:
        """Effects that wait for an answer."""
        return [line for line in self._open if self._is_open(line)]

    def view(self, name: str) -> View:
        view = self.tree.view(f"top/{name}", self.now)
        assert view is not None
        return view

    def states(self) -> dict[str, str]:
        """name -> state of everything below the top, in order."""
        found: dict[str, str] = {}
        self._states(self.tree.snapshot(self.now), found)
        del found[""]
        return found

    def told(self, *kinds: str) -> list[tuple[str, str, dict[str, Any]]]:
        return [(n.kind, shown(n.path), n.data) for n in self.notices if n.kind in kinds]

    def _states(self, view: View, found: dict[str, str]) -> None:
        found[shown(view.path)] = view.state
        for child in view.children:
            self._states(child, found)

    # --- effects ---

    def _is_open(self, line: str) -> bool:
        word, name, generation = line.split()[:3]
        tables = {"stop": self.alive, "end": self.alive | self.starting}
        return tables.get(word, self.starting).get(name) == int(generation)

    def _note(self, effect: Effect) -> str | None:
        match effect:
            case Spawn(path, generation, _):
                name = shown(path)
                assert name not in self.alive and name not in self.starting, f"second process of {name}"
                self.starting[name] = generation
                return self._opens(f"spawn {name} {generation}")
            case Stop(path, generation, shutdown):
                return self._opens(f"stop {shown(path)} {generation} {shutdown}")
            case EndWorker(path, generation, why):
                return self._opens(f"end {shown(path)} {generation} {why}")
            case AbortStart(path, generation):
                self._open.remove(f"spawn {shown(path)} {generation}")
                return self._opens(f"abort {shown(path)} {generation}")
            case ArmTimer(token, delay, path):
                self.timers[token] = self.now + delay
                return f"arm {token} {delay:g} {shown(path)}"
            case CancelTimer(token):
                del self.timers[token]
                return f"cancel {token}"
            case Reply(_, result):
                return f"reply {result}"
            case TreeStarted():
                return "started"
            case TreeEnded(reason, gave_up):
                return f"{'gave up' if gave_up else 'ended'} {reason}"
            case Notice():
                self.notices.append(effect)
        return None

    def _opens(self, line: str) -> str:
        self._open.append(line)
        return line


def shown(path: str) -> str:
    return path.partition("/")[2]
