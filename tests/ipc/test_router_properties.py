"""Random lives of four names, checked after each step against a model that only writes down what was asked and what came
(invariants 1-7, 9-15, 17, 19-21 of the messaging notes)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otpd.ipc import limits
from otpd.ipc.breaker import Circuit
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard

NAMES = ["a", "b", "c", "d"]
NAME = st.sampled_from(NAMES)
WHO = st.integers(0, 3)
WINDOW = st.sampled_from([1, 3, 8, 20])
AFTER = ["", "twice", "gone", "reborn", "settled"]
GRACE = limits.GRACE


class Lives(RuleBasedStateMachine):
    """Names come, go, and talk. `now` moves only in `wait`."""

    @initialize(policies=st.lists(st.sampled_from(["reject", "drop_oldest", "drop_newest"]), min_size=4, max_size=4))
    def begin(self, policies: list[str]) -> None:
        self.board = Switchboard()
        self.policies = dict(zip(NAMES, policies, strict=True))
        self.alive: dict[str, Agent] = {}
        self.everybody: list[Agent] = []
        self.generations = dict.fromkeys(NAMES, 0)
        self.states = dict.fromkeys(NAMES, "unknown")
        self.serial = 0
        self.calls: dict[tuple[str, int], int] = {}  # (caller's identity, request) -> deadline
        self.dead_at: dict[bytes, int] = {}
        self.refs: dict[tuple[bytes, int], list[Any]] = {}
        for name in NAMES[:3]:
            self.start(name, True, 8)

    # --- what may happen ---

    def start(self, name: str, ready: bool, window: int) -> None:
        self.generations[name] += 1
        agent = self.board.agent(
            name,
            self.generations[name],
            state="ready" if ready else "starting",
            window=(window, window * 40),
            **self.row(name),
        )
        self.alive[name] = agent
        self.everybody.append(agent)
        self.states[name] = "ready" if ready else "starting"

    def row(self, name: str) -> dict[str, Any]:
        return {"inbox": {"messages": 12, "bytes": 400, "policy": self.policies[name]}, "group": "g"}

    def pick(self, which: int) -> Agent:
        """One that lives."""
        if not self.alive:
            self.start(NAMES[which], True, 20)
        return list(self.alive.values())[which % len(self.alive)]

    @rule(name=NAME, ready=st.booleans(), window=WINDOW)
    def born(self, name: str, ready: bool, window: int) -> None:
        if name in self.alive:
            self.board.row(self.alive[name], **self.row(name))
            self.states[name] = "ready"
        else:
            self.start(name, ready, window)

    @rule(who=WHO, reason=st.sampled_from(["normal", "killed"]), then=st.sampled_from(AFTER))
    def die(self, who: int, reason: str, then: str) -> None:
        agent = self.pick(who)
        name = agent.name
        del self.alive[name]
        self.dead_at[agent.identity] = self.board.now
        if then == "gone":
            self.board.root("gone", name)
            self.states[name] = "unknown"
            return
        for _ in range(2 if then == "twice" else 1):
            self.board.death(agent, reason)
        self.states[name] = "restarting"
        if then == "reborn":
            self.start(name, True, 8)
        elif then == "settled":
            self.settle(name, "restarting")

    @rule(name=NAME, state=st.sampled_from(["restarting", "stopped"]))
    def settle(self, name: str, state: str) -> None:
        if name not in self.alive and self.generations[name]:
            self.board.name(name, state, self.generations[name], **self.row(name))
            self.states[name] = state

    @rule(duration=st.sampled_from([MS, GRACE, GRACE, SECOND, 40 * SECOND]))
    def wait(self, duration: int) -> None:
        self.board.wait(duration)

    @rule(who=WHO, talk=st.lists(st.tuples(NAME, st.integers(1, 15)), min_size=1, max_size=6))
    def cast(self, who: int, talk: list[tuple[str, int]]) -> None:
        for to, count in talk:
            self._cast(self.pick(who), to, count, "name", "")

    @rule(who=WHO, talk=st.lists(st.tuples(st.sampled_from(["all", "any"]), st.integers(1, 6)), min_size=1, max_size=3))
    def cast_to_group(self, who: int, talk: list[tuple[str, int]]) -> None:
        for policy, count in talk:
            self._cast(self.pick(who), "g", count, "group", policy)

    @rule(to=NAME)
    def last_words(self, to: str) -> None:
        """The sockets of the dead still hold a cast."""
        for agent in self.everybody:
            if self._in_grace(agent):
                self._cast(agent, to, 1, "name", "")

    @rule(who=WHO, talk=st.lists(st.tuples(NAME, st.sampled_from([0, MS, SECOND])), min_size=1, max_size=8))
    def call(self, who: int, talk: list[tuple[str, int]]) -> None:
        agent = self.pick(who)
        for to, timeout in talk:
            if self._has_credit(agent, 1):
                request = agent.call(to, asked(agent.identity, agent.next_number), timeout=timeout)
                self.calls[agent.identity, request] = self.board.now + timeout if timeout else 0

    @rule(who=WHO, which=st.integers(0, 3), other=WHO)
    def reply(self, who: int, which: int, other: int) -> None:
        """To one of its calls; sometimes it is somebody else who does."""
        agent = self.pick(who)
        if len(agent.calls()) > which:
            (agent if other else self.pick(1)).reply(b"by " + agent.identity, call=agent.calls()[-1 - which][0])

    @rule(who=WHO, which=st.integers(0, 3))
    def cancel(self, who: int, which: int) -> None:
        agent = self.pick(who)
        mine = [request for identity, request in self.calls if identity == agent.identity]
        if len(mine) > which and not outcomes(agent, mine[-1 - which]):
            agent.say("cancel", mine[-1 - which])
            del self.calls[agent.identity, mine[-1 - which]]

    @rule(who=st.lists(WHO, min_size=1, max_size=4))
    def credit(self, who: list[int]) -> None:
        for each in who:
            self.pick(each).credit()

    @rule(who=WHO, names=st.lists(st.tuples(NAME, st.booleans()), min_size=1, max_size=3))
    def monitor(self, who: int, names: list[tuple[str, bool]]) -> None:
        agent = self.pick(who)
        for name, follow in names:
            ref = agent.number()
            self.refs[agent.identity, ref] = [name, follow]
            agent.say("monitor", ref, name, follow)

    @rule(who=WHO)
    def demonitor(self, who: int) -> None:
        agent = self.pick(who)
        refs = [ref for identity, ref in self.refs if identity == agent.identity]
        if refs:
            agent.say("demonitor", refs[-1])
            self.refs[agent.identity, refs[-1]].append(len(words(agent, refs[-1])))

    @rule(who=WHO, other=NAME, lock=st.booleans())
    def hold(self, who: int, other: str, lock: bool) -> None:
        agent = self.pick(who)
        agent.say("trap", True)
        agent.say("link", other)
        if lock:
            agent.say("ask", agent.number(), "lock", "the lock")

    @rule(who=WHO, counts=st.lists(st.integers(1, 40), min_size=1, max_size=3), subscribe=st.booleans())
    def publish(self, who: int, counts: list[int], subscribe: bool) -> None:
        agent = self.pick(who)
        if subscribe:
            agent.say_data("subscribe", agent.number(), "x.*")
        for count in counts:
            if self._has_credit(agent, count):
                agent.publish("x.y", *self._bodies(count))

    @rule(which=st.integers(0, 5), late=st.booleans())
    def zombie(self, which: int, late: bool) -> None:
        """One that died long ago goes on talking, or root says what it said long ago."""
        agent = self.everybody[which % len(self.everybody)] if self.everybody else None
        if agent is not None and agent.identity in self.dead_at and not self._in_grace(agent):
            if late and agent.name in self.alive:
                self.board.death(agent, "late")
                self.board.row(agent, **self.row(agent.name))
            agent.hello()
            agent.cast("a", b"0")
            assert agent.stale

    # --- the model's help ---

    def agent(self, identity: bytes) -> Agent:
        return next(each for each in self.everybody if each.identity == identity)

    def _cast(self, agent: Agent, to: str, count: int, kind: str, policy: str) -> None:
        if self._has_credit(agent, count):
            agent.cast(to, *self._bodies(count), kind=kind, policy=policy)

    def _bodies(self, count: int) -> list[bytes]:
        self.serial += count
        return [b"%d" % number for number in range(self.serial - count + 1, self.serial + 1)]

    def _has_credit(self, agent: Agent, count: int) -> bool:
        peer = self.board.router._peers.get(agent.identity)
        return peer is None or peer.intake.got_messages + count <= peer.intake.granted_messages

    def _in_grace(self, agent: Agent) -> bool:
        return agent.identity in self.board.router._peers and agent.identity in self.dead_at

    # --- what must hold ---

    @invariant()
    def casts_arrive_once_and_in_order(self) -> None:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for agent in self.everybody:  # in the order of their generations
            for source, body in agent.casts():
                assert int(body) > seen[source, agent.name], f"{body!r} of {source} to {agent.name} came again or late"
                seen[source, agent.name] = int(body)

    @invariant()
    def events_arrive_once_and_in_order(self) -> None:
        for agent in self.everybody:
            last: dict[str, int] = defaultdict(int)
            for source, _, body in agent.published:
                assert int(body) > last[source]
                last[source] = int(body)

    @invariant()
    def every_cast_is_somewhere(self) -> None:
        router = self.board.router
        counts = router.counts()
        ended = counts.processed + counts.dropped + counts.expired + counts.lost + sum(counts.rejected.values())
        queued = sum(parcel.count for entry in router._table.entries.values() for parcel in entry.inbox if parcel.kind == 2)
        on_way = 0
        for peer in router._peers.values():
            done = peer.allowance.handled
            on_way += sum(min(count, end - done) if end - done < count else count for end, count in peer.on_way)
            ended += sum(max(0, count - (end - done)) for end, count in peer.on_way)
        assert counts.casts == ended + queued + on_way

    @invariant()
    def nobody_is_sent_more_than_it_granted(self) -> None:
        for peer in self.board.router._peers.values():
            assert peer.allowance.sent_messages <= peer.allowance.may_messages
            assert peer.intake.got_messages <= peer.intake.granted_messages

    @invariant()
    def queues_are_counted_and_bounded(self) -> None:
        router = self.board.router
        total = 0
        for entry in router._table.entries.values():
            parcels = [parcel for parcel in entry.inbox if parcel.kind != 1]
            assert entry.inbox.messages == sum(parcel.count for parcel in parcels)
            assert entry.inbox.size == sum(parcel.size for parcel in parcels) <= limits.INBOX_BYTES
            assert entry.inbox.messages <= limits.INBOX_MESSAGES
            total += entry.inbox.size
        for peer in router._peers.values():
            assert peer.backlog.events <= limits.EVENT_MESSAGES
            total += peer.backlog.size
        assert router.memory == total

    @invariant()
    def credit_is_held_for_what_waits_and_for_nothing_else(self) -> None:
        router = self.board.router
        held: dict[int, int] = defaultdict(int)
        for entry in router._table.entries.values():
            for parcel in entry.inbox:
                held[id(parcel.source)] += parcel.count if parcel.charged else 0
        for peer in router._peers.values():
            assert peer.intake.held == held[id(peer)]

    @invariant()
    def a_call_has_one_outcome_by_its_deadline(self) -> None:
        for (identity, request), deadline in self.calls.items():
            found = outcomes(self.agent(identity), request)
            assert len(found) <= 1
            if deadline and identity not in self.dead_at and deadline < self.board.now:
                assert len(found) == 1, f"call {request} of {identity!r} has no outcome"

    @invariant()
    def what_a_call_says_of_its_execution_is_true(self) -> None:
        executed = {body: agent.identity for agent in self.everybody for _, body in agent.calls()}
        for identity, request in self.calls:
            where = executed.get(asked(identity, request))
            for outcome in outcomes(self.agent(identity), request):
                if isinstance(outcome[2], bytes):
                    assert where is not None and outcome[2] == b"by " + where
                else:
                    assert where is None if outcome[2] == "no" else where is not None

    @invariant()
    def no_call_waits_for_the_dead_and_none_is_forgotten(self) -> None:
        router = self.board.router
        for call in router._calls._open.values():
            assert call.caller.asked[call.request] is call and router._peers[call.caller.identity] is call.caller
            if call.callee is None:
                assert call.parcel in list(call.entry.inbox)
            else:
                assert call.callee.serving[call.number] is call and router._peers[call.callee.identity] is call.callee

    @invariant()
    def each_down_comes_once_and_none_after_demonitor(self) -> None:
        for (identity, ref), (name, follow, *unset) in self.refs.items():
            said = words(self.agent(identity), ref)
            if unset:
                assert len(said) == unset[0]
            assert all(command[2] == name for command in said)
            if not follow:
                assert [command[0] for command in said] in ([], ["up"], ["down"], ["up", "down"])
            else:
                alternating = said[1:] if said and said[0][0] == "down" else said
                assert all(command[0] == ("up", "down")[index % 2] for index, command in enumerate(alternating))
                assert len({tuple(command) for command in alternating}) == len(alternating)

    @invariant()
    def members_live_and_a_lock_has_a_living_holder(self) -> None:
        router = self.board.router
        members = {entry.name for entry in router._hold.groups.members("g")[1]}
        assert members == {name for name in self.alive if self.states[name] == "ready"}
        for lock in router._hold.registry._locks.values():
            assert lock.holder.connected and all(peer.connected for peer, _ in lock.waiting)

    @invariant()
    def links_are_symmetric_and_between_the_living(self) -> None:
        links = self.board.router._hold.links._of
        for one, others in links.items():
            assert others and all(one in links[other] for other in others)

    @invariant()
    def an_open_breaker_lets_nothing_through(self) -> None:
        router = self.board.router
        for entry in router._table.entries.values():
            if entry.breaker.circuit is Circuit.HALF_OPEN:
                probes = [call for call in router._calls._open.values() if call.entry is entry and call.probe]
                assert len([probe for probe in probes if probe.deadline > self.board.now]) <= 1

    def teardown(self) -> None:
        """When all that lives takes everything and all that is late is waited for, nothing is left over."""
        if not hasattr(self, "board"):
            return
        for agent in self.alive.values():
            self.board.row(agent, **self.row(agent.name))
        for _ in range(3000):
            waiting = [agent for agent in self.alive.values() if self._waits(agent)]
            if not waiting:
                break
            for agent in waiting:
                agent.credit()
        for name in NAMES:
            if name not in self.alive and self.generations[name]:
                self.board.name(name, "stopped", self.generations[name])
        for agent in list(self.alive.values()):
            self.board.death(agent)
        self.board.wait(60 * SECOND)
        for name in NAMES:
            self.board.root("gone", name)
        router = self.board.router
        assert (router.memory, len(router._calls), router._peers, router._table.entries) == (0, 0, {}, {})
        assert router._hold.links._of == router._hold.monitors._of == router._hold.registry._locks == {}
        counts = router.counts()
        ended = counts.processed + counts.dropped + counts.expired + counts.lost + sum(counts.rejected.values())
        assert counts.casts == ended

    def _waits(self, agent: Agent) -> bool:
        peer = self.board.router._peers[agent.identity]
        return bool(peer.entry.inbox or peer.backlog)


def asked(identity: bytes, request: int) -> bytes:
    """The body of a call, unlike any other."""
    return b"%b:%d" % (identity, request)


def outcomes(agent: Agent, request: int) -> list[Any]:
    return [each for each in agent.replies if each[0] == request] + [each for each in agent.failed() if each[0] == request]


def words(agent: Agent, ref: int) -> list[list[Any]]:
    return [command for command in agent.heard("up", "down") if command[1] == ref]


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
