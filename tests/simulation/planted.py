"""Bugs to be planted into the real machines: each is what somebody could write, and an invariant must find it.

Every function takes a pytest.MonkeyPatch. What is listed with it are the numbers of the invariants that may be the first to
see it; 0 stands for an exception in a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pytest import MonkeyPatch

from otpd.ipc import calls, delivery, endpoint, groups, lives, lobby, outbox, reception
from otpd.ipc.breaker import Breaker, Circuit
from otpd.ipc.credit import Allowance, Intake
from otpd.ipc.events import Backlog
from otpd.ipc.inbox import Inbox
from otpd.ipc.links import Links
from otpd.ipc.monitors import Monitors
from otpd.ipc.registry import Key, Registry
from otpd.ipc.standing import Standing as Arrangements
from otpd.ipc.window import Window
from otpd.supervisor import backoff, brokerlink, ladder, supervision
from otpd.supervisor.addresses import Addresses
from otpd.supervisor.incarnation import Incarnation
from otpd.supervisor.intensity import Window as Intensity
from otpd.supervisor.spec import Restart

Plant = Callable[[MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    plant: Plant
    found_by: frozenset[int]

    @property
    def name(self) -> str:
        return self.plant.__name__.replace("_", " ")


BUGS: Final[list[Bug]] = []


def found_by(*numbers: int) -> Callable[[Plant], Plant]:
    def note(plant: Plant) -> Plant:
        BUGS.append(Bug(plant, frozenset(numbers)))
        return plant

    return note


def _nothing(*_: Any, **__: Any) -> None:
    return None


# --- the router: lives and deaths ---


@found_by(3, 4, 20, 24)
def no_tombstone_is_asked(patch: MonkeyPatch) -> None:
    """A hello of an incarnation that is dead is believed."""

    def objection(identity: bytes, guest: Any, entry: Any) -> str | None:
        row, hello = entry.row, guest.hello
        if hello.inc == entry.inc and (hello.token != row.token or identity != row.identity):
            return "expected the token and the routing id that root gave"
        return None

    patch.setattr(lobby, "_objection", objection)


@found_by(14, 17, 21)
def the_dead_are_not_buried(patch: MonkeyPatch) -> None:
    """A death only fences; who waits for the dead waits on."""
    patch.setattr(lives.Lives, "bury", _nothing)


@found_by(14)
def the_calls_of_a_dead_callee_go_on(patch: MonkeyPatch) -> None:
    patch.setattr(calls.Calls, "lose_callee", _nothing)


@found_by(19, 20)
def keys_and_locks_outlive_their_holder(patch: MonkeyPatch) -> None:
    patch.setattr(Registry, "release", _nothing)


@found_by(19)
def the_dead_stay_in_their_groups(patch: MonkeyPatch) -> None:
    patch.setattr(groups.Groups, "leave_all", _nothing)


@found_by(3)
def the_grace_of_the_dead_never_ends(patch: MonkeyPatch) -> None:
    """Its connection is not forgotten: whatever still comes of it is taken."""
    patch.setattr(lives.Lives, "_drop", _nothing, raising=False)
    original = lives.Lives.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self._drop = _nothing

    patch.setattr(lives.Lives, "__init__", init)


@found_by(17)
def a_death_is_told_twice(patch: MonkeyPatch) -> None:
    down = Monitors._down

    def twice(self: Any, monitor: Any, inc: int, reason: str, dead: Any) -> None:
        down(self, monitor, inc, reason, dead)
        down(self, monitor, inc, reason, dead)

    patch.setattr(Monitors, "_down", twice)


@found_by(17)
def demonitor_forgets_nothing(patch: MonkeyPatch) -> None:
    patch.setattr(Monitors, "unset", _nothing)


@found_by(18)
def every_death_is_a_kill(patch: MonkeyPatch) -> None:
    died = Monitors.died
    patch.setattr(Monitors, "died", lambda self, name, inc, reason, dead: died(self, name, inc, "killed", dead))


@found_by(21)
def a_cycle_of_links_ends_its_members_twice(patch: MonkeyPatch) -> None:
    class Forgetful(set[Any]):
        def add(self, _item: Any) -> None: ...

    original = Links.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self._doomed = Forgetful()

    patch.setattr(Links, "__init__", init)


@found_by(21)
def a_link_holds_on_one_side_only(patch: MonkeyPatch) -> None:
    join = Links._join

    def half(self: Any, peer: Any, other: Any) -> None:
        join(self, peer, other)
        self._of.get(other, {}).pop((peer.name, peer.inc), None)

    patch.setattr(Links, "_join", half)


@found_by(21)
def a_normal_end_ends_who_is_linked(patch: MonkeyPatch) -> None:
    exits = Links._exit

    def abnormal(self: Any, to: Any, dead: Any, reason: str, source: Any) -> None:
        exits(self, to, dead, reason.replace("normal", "normal "), source)

    patch.setattr(Links, "_exit", abnormal)


# --- the router: messages ---


@found_by(1)
def what_waits_is_sent_last_first(patch: MonkeyPatch) -> None:
    patch.setattr(Inbox, "first", property(lambda self: next(reversed(self._parcels.values()))))


@found_by(1)
def a_new_message_overtakes_those_that_wait(patch: MonkeyPatch) -> None:
    offer = delivery.Delivery.offer

    def jump(self: Any, entry: Any, parcel: Any, now: int) -> str:
        peer = entry.open
        if peer is not None and peer.allowance.fits(parcel.count, len(parcel.payload)):
            self._hand(peer, parcel)
            return ""
        return offer(self, entry, parcel, now)

    patch.setattr(delivery.Delivery, "offer", jump)


@found_by(40)
def messages_flow_as_soon_as_hello_is_said(patch: MonkeyPatch) -> None:
    connected = lives.Lives.connected

    def eager(self: Any, entry: Any, peer: Any, now: int) -> None:
        connected(self, entry, peer, now)
        self._hold.delivery.opened(entry, now)

    patch.setattr(lives.Lives, "connected", eager)


@found_by(6)
def the_restart_buffer_has_no_bound(patch: MonkeyPatch) -> None:
    patch.setattr(delivery.Delivery, "_buffer_fits", lambda self, entry, parcel: True)


@found_by(5, 9)
def what_a_full_buffer_drops_is_not_counted(patch: MonkeyPatch) -> None:
    def drop(self: Any, entry: Any, now: int) -> None:
        victim = entry.inbox.split_first()
        if victim.call is not None:
            self._calls.fail(victim.call, "overloaded", "no")

    patch.setattr(delivery.Delivery, "_drop_oldest", drop)


@found_by(9)
def a_dropped_event_leaves_no_gap(patch: MonkeyPatch) -> None:
    patch.setattr(Backlog, "_gap", _nothing)


@found_by(7)
def a_batch_costs_the_credit_of_one_message(patch: MonkeyPatch) -> None:
    spend = Allowance.spend
    patch.setattr(Allowance, "spend", lambda self, messages, size: spend(self, 1, size))


@found_by(7)
def a_large_message_passes_without_credit(patch: MonkeyPatch) -> None:
    fits = Allowance.fits
    patch.setattr(Allowance, "fits", lambda self, messages, size: fits(self, messages, min(size, 1000)))


@found_by(46, 5)
def credit_does_not_come_back(patch: MonkeyPatch) -> None:
    """Senders starve behind a receiver that has taken everything."""
    patch.setattr(Intake, "give_back", lambda self, messages, size: False)


@found_by(13, 46)
def expired_calls_are_delivered(patch: MonkeyPatch) -> None:
    original = calls.Calls.open

    def unarmed(self: Any, *arguments: Any, **more: Any) -> Any:
        call = original(self, *arguments, **more)
        self._timers.cancel(("call", call.number))
        call.deadline = 0
        return call

    patch.setattr(calls.Calls, "open", unarmed)


@found_by(15)
def a_call_that_was_delivered_is_said_not_to_be_executed(patch: MonkeyPatch) -> None:
    fail = calls.Calls.fail
    patch.setattr(
        calls.Calls, "fail", lambda self, call, code, executed, detail="": fail(self, call, code, "no", detail)
    )


@found_by(16)
def every_call_is_a_probe(patch: MonkeyPatch) -> None:
    """The breaker of the system that the founding analysis was about."""
    patch.setattr(Breaker, "admit", lambda self, now, deadline: self.circuit is not Circuit.OPEN)


@found_by(16)
def an_open_breaker_lets_calls_through(patch: MonkeyPatch) -> None:
    patch.setattr(Breaker, "admit", lambda self, now, deadline: True)


# --- the router: names ---


@found_by(20)
def a_key_can_be_taken_from_its_holder(patch: MonkeyPatch) -> None:
    def register(self: Any, peer: Any, key: str, value: Any) -> bool:
        self._revision += 1
        self._keys[key] = Key(peer, value, self._revision)
        peer.keys[key] = None
        return True

    patch.setattr(Registry, "register", register)


@found_by(20)
def a_lock_is_granted_to_all(patch: MonkeyPatch) -> None:
    patch.setattr(Registry, "lock", lambda self, peer, key, ref: True)


@found_by(22)
def round_robin_is_stuck(patch: MonkeyPatch) -> None:
    patch.setitem(groups._CHOICES, "round_robin", lambda order, calling: min(order, key=lambda entry: entry.name))


@found_by(22)
def the_hash_depends_on_who_else_is_there(patch: MonkeyPatch) -> None:
    pick = groups.Groups.pick

    def modulo(self: Any, name: str, policy: str, key: str, asker: Any) -> Any:
        if policy != "hash" or name not in self:
            return pick(self, name, policy, key, asker)
        choice = groups._candidates(self.members(name)[1], asker)
        return choice[sum(key.encode()) % len(choice)]

    patch.setattr(groups.Groups, "pick", modulo)


@found_by(23)
def leaving_a_group_has_no_revision_of_its_own(patch: MonkeyPatch) -> None:
    changed = groups.Groups._changed

    def silent(self: Any, group: Any, how: str, entry: Any) -> None:
        changed(self, group, how, entry)
        group.revision -= how == "left"

    patch.setattr(groups.Groups, "_changed", silent)


# --- the endpoint ---


@found_by(12)
def a_late_reply_is_delivered(patch: MonkeyPatch) -> None:
    def take(self: Any, frame: bytes) -> None:
        for request, status, body in reception.split(frame):
            self._calls.end(request)
            self.happened.append(reception.Replied(request, reception._STATUSES[status], body))

    patch.setattr(endpoint.Endpoint, "_take_replies", take)


@found_by(10, 11, 46)
def calls_have_no_deadline_at_their_caller(patch: MonkeyPatch) -> None:
    """The backstop is missing: what broker and callee do not answer is never answered."""
    patch.setattr(endpoint.Endpoint, "expire", lambda self, now: None)
    patch.setattr(endpoint.Endpoint, "_fail_sent", _nothing)


@found_by(1, 2, 10)
def a_new_broker_is_sent_again_what_the_old_one_had(patch: MonkeyPatch) -> None:
    send, reset = outbox.Outbox._send, outbox.Outbox.reset

    def keep(self: Any, batch: Any, frames: Any) -> bool:
        parts = list(batch.parts)
        done = send(self, batch, frames)
        self.__dict__.setdefault("sent", []).append((batch.route.address, batch.kind, batch.flags, parts))
        return done

    def again(self: Any) -> None:
        reset(self)
        for address, kind, flags, parts in self.__dict__.pop("sent", [])[-3:]:
            for part in parts:
                _, number, mark = outbox.INNER.unpack_from(part)
                self.put(kind, address, number, mark, part[outbox.INNER.size :], flags)

    patch.setattr(outbox.Outbox, "_send", keep)
    patch.setattr(outbox.Outbox, "reset", again)


@found_by(7)
def a_sender_ignores_its_credit(patch: MonkeyPatch) -> None:
    patch.setattr(outbox.Outbox, "_allowed", lambda self, parts: parts)


@found_by(1)
def closed_batches_leave_in_the_wrong_order(patch: MonkeyPatch) -> None:
    take = outbox.Outbox.take

    def backwards(self: Any) -> Any:
        self._closed.reverse()
        return take(self)

    patch.setattr(outbox.Outbox, "take", backwards)


@found_by(46, 24, 5)
def the_window_is_never_renewed(patch: MonkeyPatch) -> None:
    patch.setattr(Window, "done", lambda self, messages, size: False)


@found_by(24)
def groups_are_not_restored(patch: MonkeyPatch) -> None:
    restore = Arrangements.restore
    patch.setattr(Arrangements, "restore", lambda self: {**restore(self), "groups": []})


@found_by(17)
def monitors_are_not_restored(patch: MonkeyPatch) -> None:
    restore = Arrangements.restore
    patch.setattr(Arrangements, "restore", lambda self: {**restore(self), "monitors": []})


# --- root's table of names ---


@found_by(17, 18, 21, 24, 46)
def deaths_are_not_told(patch: MonkeyPatch) -> None:
    """A row of the next one says it all, somebody may think."""
    tell = Addresses._tell

    def quiet(self: Any, packet: list[Any]) -> None:
        if packet[0] != "death":
            tell(self, packet)

    patch.setattr(Addresses, "_tell", quiet)


@found_by(17, 22, 24, 46)
def readiness_is_not_told(patch: MonkeyPatch) -> None:
    patch.setattr(Addresses, "ready", _nothing)


@found_by(17, 24, 46)
def what_becomes_of_a_name_is_not_told(patch: MonkeyPatch) -> None:
    patch.setattr(brokerlink.BrokerLink, "noticed", _nothing)


# --- supervision ---


@found_by(36)
def one_restart_more_than_allowed(patch: MonkeyPatch) -> None:
    admit = Intensity.admit

    def lenient(self: Any, now: float) -> bool:
        return admit(self, now) or len(self._seconds) == (self.limit or 0) + 1

    patch.setattr(Intensity, "admit", lenient)


@found_by(37)
def a_transient_child_restarts_after_a_normal_end(patch: MonkeyPatch) -> None:
    patch.setattr(supervision, "needs_restart", lambda spec, reason: spec.restart is not Restart.TEMPORARY)


@found_by(35)
def siblings_are_stopped_first_to_last(patch: MonkeyPatch) -> None:
    group = supervision.Supervisor._group
    patch.setattr(supervision.Supervisor, "_group", lambda self, child: group(self, child)[::-1])


@found_by(42)
def a_back_off_does_not_grow(patch: MonkeyPatch) -> None:
    delay = backoff.next_delay

    def flat(policy: Any, previous: float | None) -> float:
        return delay(policy, previous and min(previous, policy.initial / policy.factor))

    patch.setattr(supervision, "next_delay", flat)


@found_by(33, 39)
def what_a_worker_leaves_behind_is_left(patch: MonkeyPatch) -> None:
    patch.setitem(
        ladder._TABLE,
        (ladder.State.RUNNING, ladder.Died),
        lambda state, event, now: (state._replace(state=ladder.State.DONE), [ladder.Reap(group=False), ladder.Done()]),
    )


@found_by(34)
def the_group_is_killed_again_when_its_leader_is_reaped(patch: MonkeyPatch) -> None:
    """By then its number may be somebody else's."""

    def sweep_again(state: Any, event: Any, now: float) -> Any:
        swept, effects = ladder._sweep_again(state, event, now)
        return swept, [ladder.Kill(group=True), *effects] if effects else effects

    patch.setitem(ladder._TABLE, (ladder.State.SWEEPING, ladder.Tick), sweep_again)


@found_by(33, 39)
def the_tree_hears_of_an_end_before_it_is_one(patch: MonkeyPatch) -> None:
    """The next incarnation is started while the last one is being asked to stop."""
    patch.setattr(Incarnation, "_end", lambda self, shutdown: self._gone(self._outcome()))


@found_by(38, 46)
def a_worker_that_ignores_sigterm_is_never_killed(patch: MonkeyPatch) -> None:
    patch.setattr(ladder, "_deadline", lambda shutdown, now: None)
    patch.delitem(ladder._TABLE, (ladder.State.ASKED, ladder.Tick))
