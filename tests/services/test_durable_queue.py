"""The queue of durable messages: its rules one by one, and all together under a random life (invariants 25-30)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otpd.agents.services.store.messages import Answer, Bounds, State
from otpd.supervisor.intensity import Window
from tests.services.durable_world import BOUNDS, Submission, World, cast, event


def sent(world: World, *requests: Any, sender: str = "s", number: int = 0) -> Answer:
    """Submitted, committed, answered."""
    world.incs += not number
    ref = world.submit(Submission(sender, 1, number or world.refs + 1, list(requests)))
    world.commit_all()
    return world.answers[ref]


def told(world: World) -> list[tuple[str, Any]]:
    return [(each.event, each.data["reason"]) for each in world.told]


def test_nothing_is_answered_or_delivered_before_its_commit() -> None:
    """E1, E5: nor is an attempt made that is not counted on disk."""
    world = World()
    world.up("a")
    ref = world.submit(Submission("s", 1, 1, [cast("a")]))
    assert (ref in world.answers, len(world.receivers["a"].mailbox)) == (False, 0)
    world.commit()
    assert (world.answers[ref].value, len(world.receivers["a"].mailbox)) == ([[1], None], 0)
    world.commit()
    assert [each.attempt for each in world.receivers["a"].mailbox] == [1]


def test_one_of_a_key_at_a_time_and_in_order_while_other_keys_go_on() -> None:
    """E4."""
    world = World(Bounds(window=64))
    world.up("a")
    sent(world, *(cast("a", key=key) for key in ("k", "k", "l", "k", "l")))
    for _ in range(5):
        world.handle("a", "ok")
        world.commit_all()
    assert world.order == {("a", "k"): [1, 2, 4], ("a", "l"): [3, 5]}
    assert world.queue.messages == {}


def test_a_key_waits_for_a_message_that_is_tried_again_until_it_is_dead() -> None:
    world = World()
    world.up("a")
    sent(world, cast("a"), cast("a"))
    for attempt in (1, 2, 3):
        assert world.handle("a", "no stock").attempt == attempt
        world.commit_all()
        world.pass_time(1.0)
    assert [(each["seq"], each["attempts"], each["error"]) for each in world.letters().values()] == [(1, 3, "no stock")]
    assert world.handle("a", "ok").message.seq == 2
    assert told(world) == [("letter.dead", "raised")]


def test_a_pause_is_twice_as_long_each_time_and_bounded() -> None:
    """E5."""
    world = World(Bounds(max_attempts=20, backoff=1.0, backoff_max=8.0))
    world.up("a")
    sent(world, cast("a"))
    pauses = []
    for _ in range(5):
        began = world.now
        world.handle("a", "no")
        world.commit_all()
        while not world.receivers["a"].mailbox:
            world.pass_time(0.05)
        pauses.append((world.now - began) / 1e9)
    assert [round(pause / expected) for pause, expected in zip(pauses, (1, 2, 4, 8, 8), strict=True)] == [1] * 5


def test_a_message_that_kills_does_not_spend_the_budget_of_a_supervisor() -> None:
    """E6: its deaths are as many as its attempts, but no more of them than a supervisor allows by default come together."""
    world = World(Bounds(max_attempts=8))
    world.up("a")
    sent(world, cast("a"))
    allowed, window = [], Window(3, 5)
    while not world.letters():
        if world.receivers["a"].mailbox:
            world.handle("a", "crash")
            allowed.append(window.admit(world.now / 1e9))
            world.commit_all()
            world.up("a")
        world.commit_all()
        world.pass_time(0.05)
    assert allowed == [True] * 8


def test_a_message_that_kills_is_charged_for_all_deaths_but_the_first_whatever_dies_with_the_process() -> None:
    """E5: that those before it were handled is said by the process that it kills, and so perhaps never heard. And E6."""
    world = World(Bounds(window=64, max_attempts=3))
    world.up("a")
    sent(world, *(cast("a", key=f"k{n}") for n in range(20)))
    allowed, window = [], Window(3, 5)
    while not world.letters():
        mailbox = world.receivers["a"].mailbox
        if any(each.message.seq == 9 for each in mailbox):
            allowed.append(window.admit(world.now / 1e9))
            world.handle("a", "crash")
            world.up("a")
        elif mailbox:
            world.handle("a", "ok")
        world.commit_all()
        world.pass_time(0.05)
    assert ([each["seq"] for each in world.letters().values()], allowed) == ([9], [True] * 4)


def test_the_death_of_an_incarnation_charges_only_the_message_that_it_was_handling() -> None:
    """E5."""
    world = World(Bounds(window=64))
    world.up("a")
    sent(world, *(cast("a", key=f"k{n}") for n in range(6)))
    for _ in range(3):  # the window grows
        world.handle("a", "ok")
        world.commit_all()
    assert len(world.receivers["a"].mailbox) == 3
    world.handle("a", "crash")
    world.commit_all()
    assert sorted((m.seq, m.attempts) for m in world.queue.messages.values()) == [(4, 1), (5, 0), (6, 0)]
    world.up("a")
    world.commit_all()
    world.pass_time(1.0)
    assert len(world.receivers["a"].mailbox) == 1, "what comes after a crash comes alone"


def test_whoever_is_asked_to_end_has_failed_at_nothing() -> None:
    world = World()
    world.up("a")
    sent(world, cast("a"))
    world.down("a", "shutdown")
    world.commit_all()
    assert [m.attempts for m in world.queue.messages.values()] == [0]


def test_a_store_that_begins_anew_delivers_again_without_a_charge_while_the_incarnation_lives() -> None:
    """E2, K5."""
    world = World()
    world.up("a")
    sent(world, cast("a"))
    world.kill_store()
    assert [(each.message.seq, each.attempt) for each in world.receivers["a"].mailbox] == [(1, 1)]
    world.handle("a", "ok")
    world.commit_all()
    assert (world.handled[1], world.queue.messages) == (1, {})


def test_an_acknowledgement_that_was_lost_with_the_store_is_said_again_without_another_handling() -> None:
    world = World()
    world.up("a")
    sent(world, cast("a"))
    world.handle("a", "ok")
    world.kill_store()
    world.commit_all()
    assert (world.handled[1], world.queue.messages) == (1, {})


def test_the_last_submission_may_be_said_again_and_an_older_one_is_stale() -> None:
    world = World()
    first = sent(world, cast("a"), number=1)
    world.kill_store()
    assert sent(world, cast("a"), number=1) == Answer(2, first.value)
    sent(world, cast("a"), number=2)
    assert sent(world, cast("a"), number=1).code == "stale"
    assert sorted(world.queue.messages) == [1, 2]


def test_the_same_id_is_the_same_message_also_after_its_end_for_ten_minutes() -> None:
    """E3."""
    world = World()
    world.up("a")
    assert sent(world, cast("a", id="o1"), number=1).value == [[1], None]
    assert sent(world, cast("a", id="o1"), number=2).value == [[1], None]
    world.handle("a", "ok")
    world.commit_all()
    world.kill_store()
    assert sent(world, cast("a", id="o1"), cast("b", id="o1"), number=3).value == [[1, 2], None]
    world.pass_time(12 * 60)
    assert sent(world, cast("a", id="o1"), number=4).value == [[3], None]


def test_a_transaction_takes_place_whole_or_not_at_all() -> None:
    """E7."""
    world = World(Bounds(messages=2))
    world.up("a")
    sent(world, cast("a"), number=1)
    full = world.submit(Submission("a", 1, 1, [cast("b"), cast("b")], settles=(1, 1)))
    assert (world.answers[full].code, sorted(world.queue.messages)) == ("store_full", [1])  # seq 2 is used up
    done = world.submit(Submission("a", 1, 2, [cast("b")], settles=(1, 1)))
    world.commit_all()
    assert (world.answers[done].value, sorted(world.queue.messages)) == ([[3], None], [3])
    again = world.submit(Submission("a", 1, 3, [cast("b")], settles=(1, 1)))
    assert world.answers[again].code == "stale"


def test_a_full_disk_refuses_what_is_new_and_takes_acknowledgements_and_burials() -> None:
    """E8."""
    world = World()
    world.up("a")
    sent(world, cast("a", key="k"), cast("a", key="l", max_attempts=1))
    world.full = True
    assert sent(world, cast("a")).code == "store_full"
    world.handle("a", "ok")
    world.commit_all()
    world.handle("a", "no")
    world.commit_all()
    assert (world.queue.messages, list(world.letters())) == ({}, [2])
    world.full = False
    assert sent(world, cast("a")).value == [[4], None]


def test_bounds_are_told_to_the_sender_and_never_lose_what_was_accepted() -> None:
    world = World(Bounds(messages=3, per_target=2))
    outcome = sent(world, cast("a"), cast("a"), cast("a"), cast("b"), cast("b"))
    assert outcome.value == [[1, 2, "overloaded", 3, "store_full"], None]


def test_a_durable_event_is_journaled_once_for_each_subscriber_also_for_one_that_is_down() -> None:
    """F4."""
    world = World()
    world.queue.subscribe(None, "a", ["orders.*", "orders.**"])
    world.queue.subscribe(None, "b", ["orders.new"])
    world.work()
    world.commit_all()
    world.up("a")
    copies = sent(world, event("orders.new"), event("orders.old"), event("stock"))
    assert copies.value == [[2, 1, 0], None]
    assert [(m.target, m.name) for m in world.queue.messages.values()] == [
        ("a", "orders.new"), ("b", "orders.new"), ("a", "orders.old"),
    ]  # fmt: skip
    world.kill_store()
    world.queue.subscribe(None, "a", [])
    world.work()
    world.commit_all()
    assert sent(world, event("orders.new")).value == [[1], None]


def test_a_subscriber_that_can_hold_no_more_keeps_nobody_from_publishing() -> None:
    world = World(Bounds(per_target=1))
    world.queue.subscribe(None, "a", ["news"])
    world.work()
    world.commit_all()
    assert sent(world, event("news"), event("news")).value == [[1, 1], None]
    assert [each["reason"] for each in world.letters().values()] == ["overloaded"]


def test_a_dead_letter_is_replayed_with_a_new_seq_and_all_its_attempts() -> None:
    """E9."""
    world = World(Bounds(max_attempts=1))
    world.up("a")
    sent(world, cast("a", id="o1"))
    world.handle("a", "no")
    world.commit_all()
    _, letter, body = world_letter(world, 1)
    world.queue.replay(99, letter, body)
    world.work()
    world.commit_all()
    assert world.answers[99].value == [2]
    assert (world.letters(), world.queue.messages[2].origin) == ({}, 1)
    world.handle("a", "no")
    world.commit_all()
    assert [(each["seq"], each["replay_of"]) for each in world.letters().values()] == [(2, 1)]
    world.queue.purge(100, [2, 7])
    world.work()
    world.commit_all()
    assert (world.answers[100].value, world.letters()) == ([1], {})


def world_letter(world: World, seq: int) -> Any:
    from otpd.agents.services.store import journal

    return journal.letter(world.disk, seq)


def minutes(world: World, count: int) -> None:
    for _ in range(count):
        world.pass_time(60.0)
        world.commit_all()


def reasons(world: World) -> list[str]:
    return [each["reason"] for each in world.letters().values()]


def test_what_nobody_came_for_within_its_age_is_a_dead_letter_also_over_restarts_of_the_store() -> None:
    world = World(Bounds(age=300.0))
    minutes(world, 3)
    sent(world, cast("nobody"))
    minutes(world, 3)
    world.kill_store()
    minutes(world, 2)
    assert reasons(world) == []
    minutes(world, 1)
    assert reasons(world) == ["expired"]


def test_no_jump_of_the_wall_clock_makes_a_waiting_message_or_a_subscription_older_or_younger() -> None:
    for jump in (8 * 86_400.0, -8 * 86_400.0):
        world = World(Bounds(age=300.0))
        world.queue.subscribe(99, "away", ["news"])
        sent(world, cast("nobody"))
        world.jumped = jump
        minutes(world, 5)
        assert (reasons(world), list(world.queue._patterns)) == ([], ["away"])
        minutes(world, 1)
        assert (reasons(world), list(world.queue._patterns)) == (["expired"], [])


def test_a_message_waits_its_age_anew_when_the_count_of_minutes_was_lost() -> None:
    world = World(Bounds(age=300.0))
    minutes(world, 10)
    sent(world, cast("nobody"))
    world.disk.execute("UPDATE minutes SET minute = 0")
    world.kill_store()
    minutes(world, 5)
    assert reasons(world) == []
    minutes(world, 1)
    assert reasons(world) == ["expired"]


def test_dead_letters_have_a_bound_in_bytes_also_after_a_new_begin_and_the_oldest_goes() -> None:
    world = World(Bounds(max_attempts=1, letter_bytes=1000))
    world.up("a")
    for number in range(3):
        sent(world, cast("a", body=b"x" * 400))
        world.handle("a", "no")
        world.commit_all()
        if number == 1:
            world.kill_store()
    assert (list(world.letters()), list(world.queue.letters), world.queue.letter_bytes) == ([2, 3], [2, 3], 804)
    assert [(each.event, each.data["letter"]) for each in world.told if each.event == "letter.dropped"] == [
        ("letter.dropped", 1)
    ]
    world.queue.purge(99, [2, 2])
    world.work()
    world.commit_all()
    assert (world.answers[99].value, world.queue.letter_bytes) == ([1], 402)


def test_a_message_whose_bytes_have_changed_on_disk_is_a_dead_letter() -> None:
    from otpd.agents.services.store import journal

    world = World()
    world.up("a")
    sent(world, cast("a"))
    message = world.queue.messages[1]
    assert journal.body(world.disk, message) == b"x"
    world.disk.execute("UPDATE messages SET body = x'79'")
    assert journal.body(world.disk, message) is None
    world.queue.corrupt(1, world.now)
    world.work()
    world.commit_all()
    assert [each["reason"] for each in world.letters().values()] == ["corrupt"]


NAMES = st.sampled_from(["a", "b"])


class RandomLife(RuleBasedStateMachine):
    """Senders repeat themselves, receivers raise, crash and are killed, store and broker die, the disk fills up."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.numbers = {"s": 0, "t": 0}
        self.open: dict[str, Submission] = {}
        self.transactions: dict[str, Submission] = {}
        self.ids: dict[tuple[str, str, str], int] = {}

    @rule(sender=st.sampled_from(["s", "t"]), to=NAMES, key=st.sampled_from(["", "k"]), id=st.sampled_from(["", "i"]))
    def send(self, sender: str, to: str, key: str, id: str) -> None:
        if sender not in self.open:
            self.numbers[sender] += 1
            request = cast(to, key=key, id=id)
            self.open[sender] = Submission(sender, 1, self.numbers[sender], [request])
        self.say(sender)

    def say(self, sender: str) -> None:
        """Said again until it is answered."""
        submission = self.open[sender]
        ref = self.world.submit(submission)
        if ref in self.world.answers:
            del self.open[sender]

    @rule(count=st.integers(1, 6))
    def commit(self, count: int) -> None:
        for _ in range(count):
            self.world.commit()
        for sender, submission in list(self.open.items()):
            if all(each is not submission for each in self.world.waiting.values()):
                del self.open[sender]

    @rule(name=NAMES)
    def up(self, name: str) -> None:
        if not self.world.receivers[name].inc:
            self.transactions.pop(name, None)
            self.world.up(name)

    @rule(name=NAMES, reason=st.sampled_from(["killed", "shutdown", "error(1)"]))
    def down(self, name: str, reason: str) -> None:
        if self.world.receivers[name].inc:
            self.world.down(name, reason)

    @rule(name=NAMES, outcome=st.sampled_from(["ok", "ok", "raised", "crash"]))
    def handle(self, name: str, outcome: str) -> None:
        if self.world.receivers[name].mailbox and name not in self.transactions:
            self.world.handle(name, outcome)

    @rule(name=NAMES)
    def transaction(self, name: str) -> None:
        """It begins, or is said again until its outcome is known."""
        receiver = self.world.receivers[name]
        if name not in self.transactions and receiver.mailbox:
            deliver = receiver.mailbox[0]
            self.numbers[name] = self.numbers.get(name, 0) + 1
            other = "b" if name == "a" else "a"
            settles = (deliver.message.seq, deliver.attempt)
            self.transactions[name] = Submission(name, receiver.inc, self.numbers[name], [cast(other)], settles)
        if name in self.transactions and receiver.inc:
            submission = self.transactions[name]
            ref = self.world.submit(submission)
            self.world.commit_all()
            del self.transactions[name]
            assert submission.settles is not None
            if receiver.mailbox and receiver.mailbox[0].message.seq == submission.settles[0]:
                receiver.mailbox.popleft()
            failed = self.world.answers[ref].code
            receiver.done[submission.settles] = "failed" if failed else "ok"
            self.world.say(receiver.done[submission.settles], *submission.settles, (name, receiver.inc))

    @precondition(lambda self: self.world.store_deaths < 3)
    @rule()
    def the_store_is_killed(self) -> None:
        self.world.kill_store()
        self.world.waiting.clear()

    @rule()
    def the_broker_is_killed(self) -> None:
        self.world.lose_what_is_on_its_way()

    @rule(seconds=st.sampled_from([0.01, 0.3, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(full=st.booleans())
    def the_disk(self, full: bool) -> None:
        self.world.full = full

    @invariant()
    def what_was_accepted_waits_or_was_handled_or_is_a_letter(self) -> None:
        letters = self.world.letters()
        for seq in self.world.accepted:
            assert seq in self.world.queue.messages or self.world.handled[seq] or self.world.effects[seq] or seq in letters

    @invariant()
    def no_attempt_too_many(self) -> None:
        assert all(m.attempts <= BOUNDS.max_attempts for m in self.world.queue.messages.values())
        most = BOUNDS.max_attempts + self.world.store_deaths
        assert all(times <= most for times in self.world.crashes.values()), self.world.crashes

    @invariant()
    def one_of_a_key_at_a_time(self) -> None:
        assert len(set(self.world.with_somebody())) == len(self.world.with_somebody())

    @invariant()
    def first_in_first_out(self) -> None:
        for key, order in self.world.order.items():
            first = list(dict.fromkeys(order))
            assert first == sorted(first), (key, order)

    @invariant()
    def an_effect_takes_place_once(self) -> None:
        assert all(times == 1 for times in self.world.effects.values())

    @invariant()
    def what_has_ended_keeps_nothing(self) -> None:
        queue = self.world.queue
        assert queue.bytes == sum(m.size for m in queue.messages.values())
        assert not any(m.state in (State.GONE, State.REFUSED) for m in queue.messages.values())

    def teardown(self) -> None:
        """When nothing dies any more everything comes to its end."""
        self.world.full = False
        for name in ("a", "b"):
            self.transactions.pop(name, None)
            if self.world.receivers[name].inc:
                self.world.down(name, "killed")
            self.world.up(name)
        for _ in range(200):
            self.world.commit_all()
            for name in ("a", "b"):
                while self.world.receivers[name].mailbox:
                    self.world.handle(name, "ok")
            self.world.commit_all()
            if not self.world.queue.messages:
                break
            self.world.pass_time(40.0)
        assert self.world.queue.messages == {}
        self.what_was_accepted_waits_or_was_handled_or_is_a_letter()


RandomLife.TestCase.settings = settings(max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck))
TestRandomLife = RandomLife.TestCase
