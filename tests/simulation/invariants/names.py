"""Invariants 20, 22, 23 and 24: who holds a name or key, who of a group is chosen, and what listeners make of changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from otpd.ipc import happenings
from otpd.ipc.frames import unpack
from tests.simulation.agent import SimulatedAgent
from tests.simulation.broker import SimulatedBroker
from tests.simulation.kernel import Process
from tests.simulation.messages import Message, short
from tests.simulation.observe import Observer

Incarnation = tuple[str, int]


class Holders(Observer):
    """20: of those who live and have heard that they hold a key or a lock, and not given it back, there is one at most."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._asked: dict[tuple[str, int, int], tuple[Any, ...]] = {}
        self._held: dict[tuple[str, str], Incarnation] = {}  # ("register" | "lock", key) -> who
        self._returned: dict[tuple[str, int, str, str], int] = {}  # by which question it was given back last

    def broker_ended(self, broker: SimulatedBroker) -> None:
        """Locks end with the epoch; keys are restored by whoever comes first."""
        self._held.clear()

    def router_heard(self, broker: SimulatedBroker, who: Incarnation, command: list[Any]) -> None:
        if command[0] == "hello" and len(command) == 2 and isinstance(command[1], dict):
            self.sometimes["a hello restores a key"] += bool(command[1].get("keys"))

    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None:
        if name != "ask":
            return
        ref, what, *more = arguments
        me = (agent.name, agent.inc)
        self._asked[(*me, ref)] = (what, *more)
        given_back = {"unregister": "register", "unlock": "lock"}.get(what)
        if given_back is not None:
            self._returned[(*me, given_back, more[0])] = ref
            if self._held.get((given_back, more[0])) == me:
                del self._held[given_back, more[0]]

    def process_ended(self, process: Process) -> None:
        self._drop((process.cookie.name, process.cookie.inc))

    def router_told(self, broker: SimulatedBroker, packet: list[Any]) -> None:
        """Also the death of one that can't be ended and lives on."""
        if packet[0] == "death":
            self._drop((packet[1], packet[2]))

    def _drop(self, dead: Incarnation) -> None:
        self._held = {key: who for key, who in self._held.items() if who != dead}

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        if not isinstance(happening, happenings.Answered):
            return
        me = (agent.name, agent.inc)
        if not happening.ok:
            self.sometimes[f"a question is refused: {happening.value[0]}"] += 1
            return
        match self._asked.get((*me, happening.ref)):
            case ("register" | "lock" as what, key, *_) if happening.value is True:
                self._granted(me, what, key, happening.ref)

    def _granted(self, me: Incarnation, what: str, key: str, ref: int) -> None:
        self.sometimes[f"{what} is granted"] += 1
        if ref < self._returned.get((*me, what, key), 0):
            return  # and is given back already
        holder = self._held.get((what, key))
        self.check(holder is None or holder == me, 20, f"{me[0]} gets {what} {key}, which {holder} holds")
        self._held[what, key] = me

    def finished(self) -> None:
        for broker in self.world.brokers.values():
            for entry in broker.router._table.entries.values():
                peers = [peer for peer in broker.router._peers.values() if peer.entry is entry and peer.connected]
                self.check(len(peers) <= 1, 20, f"{entry.name} is connected {len(peers)} times")


class Choices(Observer):
    """22: round robin is fair while nobody comes or goes; a key stays with its member while that is one."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._turns: dict[str, tuple[tuple[int, ...], Counter[str]]] = {}
        self._keys: dict[tuple[str, str], tuple[frozenset[str], str]] = {}

    def broker_began(self, broker: SimulatedBroker) -> None:
        """The choice itself can't be seen from outside: who has no credit gets its message later."""
        self._turns.clear()
        self._keys.clear()
        groups = broker.router._hold.groups
        pick = groups.pick

        def observed(name: str, policy: str, key: str, asker: Any) -> Any:
            chosen = pick(name, policy, key, asker)
            if chosen is not None:
                self._chosen(groups, name, policy, key, asker, chosen)
            return chosen

        groups.pick = observed

    def _chosen(self, groups: Any, name: str, policy: str, key: str, asker: Any, chosen: Any) -> None:
        self.sometimes[f"a group chooses: {policy}"] += 1
        revision, members = groups.members(name)
        if asker is not None and len(members) > 1:
            self.check(chosen is not asker.entry, 22, f"{chosen.name} asks {name} and is chosen itself")
        ready = tuple(entry.name for entry in members if entry.ready and (asker is None or entry is not asker.entry))
        self.check(not ready or chosen.name in ready, 22, f"{name} chooses {chosen.name}, which is not ready, of {ready}")
        if policy == "hash":
            self._check_hash(name, key, frozenset(ready or (entry.name for entry in members)), chosen.name)
        if policy == "round_robin" and asker is None:
            incs = tuple(entry.inc for entry in members)
            self._check_turn(name, (revision, *incs), ready, chosen.name)
        else:
            self._turns.pop(name, None)  # another policy moves the same turn

    def _check_turn(self, name: str, state: tuple[int, ...], ready: tuple[str, ...], chosen: str) -> None:
        """`state` is another one when somebody has come or gone, also if it is back now."""
        known, counts = self._turns.get(name, ((), Counter()))
        if known != state or counts.keys() != set(ready):
            counts = Counter(dict.fromkeys(ready, 0))
        counts[chosen] += 1
        self._turns[name] = state, counts
        self.check(max(counts.values()) - min(counts.values()) <= 1, 22, f"{name} takes turns unfairly: {dict(counts)}")
        self.sometimes["a group has taken several turns"] += sum(counts.values()) > 2 * len(counts) > 2

    def _check_hash(self, name: str, key: str, members: frozenset[str], chosen: str) -> None:
        before, former = self._keys.get((name, key), (members, chosen))
        self._keys[name, key] = members, chosen
        if members <= before and former in members:
            self.check(chosen == former, 22, f"{name}: {key} moves from {former} to {chosen}, but {former} is still there")
            self.sometimes["a member leaves, a key stays"] += members < before
        elif before <= members:
            text = f"{name}: {key} moves from {former} to {chosen} for no reason"
            self.check(chosen == former or chosen not in before, 22, text)


class Listeners(Observer):
    """23: snapshot and changes of a group give its present state, without a gap in the revisions."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._known: dict[tuple[str, int, str], int] = {}  # (listener, group) -> last revision
        self._truth: dict[tuple[str, str], dict[int, frozenset[str]]] = defaultdict(dict)  # (epoch, group)
        self._asked: dict[tuple[str, int, int], str] = {}

    def verb(self, agent: SimulatedAgent, name: str, *arguments: Any) -> None:
        if name == "ask" and arguments[1] == "members":
            self._asked[agent.name, agent.inc, arguments[0]] = arguments[2]
        elif name in ("subscribe", "unsubscribe"):
            self._forget(agent)

    def _forget(self, agent: SimulatedAgent) -> None:
        for key in [key for key in self._known if key[:2] == (agent.name, agent.inc)]:
            del self._known[key]

    def happened(self, agent: SimulatedAgent, happening: happenings.Happening, message: Message | None) -> None:
        match happening:
            case happenings.EventReceived(topic=topic, body=body) if topic.startswith("otpd.group."):
                self._changed(agent, topic.removeprefix("otpd.group."), unpack(body))
            case happenings.Gap() | happenings.Lost():
                self._forget(agent)
            case happenings.Answered(ref=ref, ok=True, value=[int(revision), list(names)]):
                group = self._asked.get((agent.name, agent.inc, ref))
                if group is not None and agent.epoch is not None:
                    self._learn(agent.epoch, group, revision, frozenset(names))

    def _changed(self, agent: SimulatedAgent, group: str, change: dict[str, Any]) -> None:
        revision, key = change["revision"], (agent.name, agent.inc, group)
        last = self._known.get(key, revision - 1)
        self.check(revision == last + 1, 23, f"{agent.name} hears revision {revision} of {group} after {last}")
        self._known[key] = revision
        self.sometimes["a listener hears several changes of a group"] += last > 0 and key in self._known
        truth = self._truth[agent.epoch or "", group]
        before = truth.get(revision - 1)
        if before is not None:
            name = change.get("joined") or change["left"]
            after = before | {name} if "joined" in change else before - {name}
            self._learn(agent.epoch or "", group, revision, frozenset(after))

    def _learn(self, epoch: str, group: str, revision: int, names: frozenset[str]) -> None:
        """Of whatever way it is learnt: one revision, one set."""
        known = self._truth[epoch, group].setdefault(revision, names)
        self.check(known == names, 23, f"{group} at revision {revision} is {sorted(known)}, and {sorted(names)}")


class Registered(Observer):
    """24 (and 46): when all is well, the router's table is root's, and who lives is connected with all that it holds."""

    def finished(self) -> None:
        world = self.world
        if world.scenario.mode != "liveness" or world.root is None:
            return
        (broker,) = world.brokers.values() or [None]
        self.check(broker, 46, "there is no broker")
        router, table = broker.router, world.root.link.table
        for name in table.names():
            row, entry = table.row(name), router._table.get(name)
            assert row is not None
            same = entry is not None and row.inc in (0, entry.inc) and entry.row.state.value == row.state.value
            known = entry and f"{short(entry.inc)} {entry.row.state}"
            self.check(same, 24, f"{name} is {short(row.inc)} {row.state} for root, {known} for the router")
        for agent in world.agents():
            if agent.phase == "ready":
                self._check_agent(router, agent)
        self._check_quiet(router)

    def _check_agent(self, router: Any, agent: SimulatedAgent) -> None:
        entry = router._table.get(agent.name)
        connected = entry is not None and entry.peer is not None and entry.peer.inc == agent.inc
        self.check(agent.welcome and connected, 24, f"{agent.name} {short(agent.inc)} is ready, but not registered")
        standing = agent.endpoint._standing
        groups = set(router._hold.groups.of(entry)) - {entry.row.group}
        missing = set(standing._groups) - groups - {entry.row.group}
        self.check(not missing, 24, f"{agent.name} is in {missing}, but not for the router")
        self.check(set(entry.peer.subscriptions) == set(standing._topics), 24, f"{agent.name}: subscriptions differ")
        self.check(set(entry.peer.keys) <= set(standing._keys), 24, f"{agent.name} holds {set(entry.peer.keys)} unknowingly")
        self.check(not agent.calls, 46, f"{agent.name} waits for {len(agent.calls)} calls")
        waiting, unsent = len(agent.mailbox), agent.endpoint._outbox.count
        self.check(not waiting and agent.handling is None, 46, f"{agent.name} has {waiting} messages waiting")
        self.check(not unsent, 46, f"{agent.name} has {unsent} messages to send")

    def _check_quiet(self, router: Any) -> None:
        self.check(not len(router._calls), 46, f"{len(router._calls)} calls are open")
        self.check(not router._lives._graves, 46, f"the dead are not buried: {router._lives._graves}")
        for entry in router._table.entries.values():
            if entry.open is not None:
                self.check(not entry.inbox, 46, f"{entry.name} is ready and {entry.inbox.messages} messages wait for it")
                self.check(not entry.open.backlog, 46, f"{entry.name} is ready and events wait for it")
            self.check(not entry.stopped or not entry.inbox, 46, f"{entry.name} is stopped, and messages wait")
