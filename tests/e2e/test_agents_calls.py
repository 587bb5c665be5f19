"""Calls and casts between real processes: outcomes, deadlines, crashes, kills, buffers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Iterator

import pytest

from otpd.agents import (
    BadArguments,
    CallTimeout,
    Deadlock,
    Exited,
    NoMethod,
    NoProcess,
    Overloaded,
    Reject,
    RemoteError,
    TooLarge,
)
from tests.e2e.fleet import Fleet, actors, fleet
from tests.helpers import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[Fleet]:
    """For tests that kill nobody but `victim`, whom each finds alive."""
    with fleet(actors("a", "b", "c", "victim")) as it:
        yield it


def test_a_call_gives_the_result_and_a_chain_of_calls_too(shared: Fleet) -> None:
    assert shared.call("a", "add", a=2) == 3
    asked = {"to": "b", "method": "ask", "args": {"to": "c", "method": "add", "args": {"a": 4, "b": 5}}}
    assert shared.call("a", "ask", **asked) == 9


def test_what_does_not_fit_is_an_answer_that_teaches(shared: Fleet) -> None:
    with pytest.raises(BadArguments, match=r"a\.add, argument a: expected int, got str \('x'\); it takes \(a: int, "):
        shared.call("a", "add", a="x")
    with pytest.raises(NoMethod, match=r"a: no call named 'ad'; did you mean add\?"):
        shared.call("a", "ad", a=1)
    with pytest.raises(NoProcess, match=r"call of nobody\.add: nobody has this name"):
        shared.call("nobody", "add", a=1)
    assert shared.generation("a") == 1


def test_reject_is_an_answer(shared: Fleet) -> None:
    with pytest.raises(Reject, match="not now") as caught:
        shared.call("a", "reject", text="not now")
    assert (caught.value.data, shared.generation("a")) == ({"text": "not now"}, 1)


def test_a_call_to_oneself_fails_at_once(shared: Fleet) -> None:
    """Rule 124; D2."""
    assert shared.call("a", "ask", to="a", method="who", within=None) == ["Deadlock", "no", ""]
    assert issubclass(Deadlock, Exception)


def test_a_call_ends_at_its_deadline_and_its_late_reply_reaches_nobody(shared: Fleet) -> None:
    """D1, D5, rule 122."""
    begin = time.monotonic()
    with shared.gate("late") as held, pytest.raises(CallTimeout) as caught:
        shared.call("b", "hold", timeout=1.0, gate=held.name)
    assert caught.value.executed == "maybe"
    assert 1.0 <= time.monotonic() - begin < 30
    assert shared.call("b", "add", a=1) == 2


def test_deadlines_travel(shared: Fleet) -> None:
    """D4: the nested call has no more time than the one that it serves, whatever it asks for."""
    with shared.gate("nested") as held:
        with contextlib.suppress(CallTimeout):  # unless a, whose time is over at the same instant, was quick to say so
            shared.call("a", "ask", timeout=0.3, to="b", method="hold", within=None, args={"gate": held.name})
        assert shared.call("a", "add", a=1) == 2, "a waits no longer, though b has not answered"
    shared.call("a", "ask", to="b", method="add", within=60, args={"a": 1})


def test_a_request_that_expires_while_it_waits_is_never_handled(shared: Fleet) -> None:
    """D4: shed before the handler."""
    with concurrent.futures.ThreadPoolExecutor() as pool, shared.gate("held") as held:
        first = pool.submit(shared.call, "c", "hold", gate=held.name)
        eventually(lambda: shared.call("c", "otpd.describe")["handling"])
        with pytest.raises(CallTimeout):
            shared.call("c", "nap", timeout=0.1, seconds=0.01)
        held.unlink()
        assert first.result() == "held"
    assert ["nap", 0.01] not in shared.heard("c")


def test_a_plain_handler_that_blocks_does_not_keep_describe_from_being_answered(shared: Fleet) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool, shared.gate("blocked") as held:
        blocked = pool.submit(shared.call, "b", "block", gate=held.name)
        told = eventually(lambda: (found := shared.call("b", "otpd.describe"))["handling"] and found)
        assert not blocked.done()
        assert (told["name"], told["class"], told["doc"]) == ("b", "Actor", "Does what it is told.")
        held.unlink()
        assert blocked.result() == "blocked"


def test_casts_of_one_sender_arrive_once_and_in_order(shared: Fleet) -> None:
    """Rule 126; B1, C1."""
    shared.call("a", "tell", to="c", count=3000)
    eventually(lambda: 2999 in shared.heard("c"))
    assert [each for each in shared.heard("c") if isinstance(each, int)] == list(range(3000))


def test_a_cast_that_nobody_takes_is_told(shared: Fleet) -> None:
    """C2: nothing is dropped in silence."""
    shared.call("b", "tell", to="nobody", count=2)
    assert eventually(lambda: shared.heard("b")[-2:] == [["rejected", "nobody", "note", "noproc"]] * 2)
    with pytest.raises(NoProcess):
        shared.client.cast("nobody", "note", confirm=True, what=1)


def test_what_is_too_large_is_refused_and_what_is_large_arrives(shared: Fleet) -> None:
    with pytest.raises(TooLarge):
        shared.client.cast("a", "note", what=b"x" * (16 * 1024 * 1024))
    big = "x" * 8_000_000
    assert shared.call("a", "ask", to="b", method="ask", args={"to": "nobody", "method": big}) == ["NoProcess", "no", ""]
    shared.client.cast("b", "note", what=big)
    assert eventually(lambda: len(shared.heard("b")[-1]) == len(big))
    shared.client.cast("b", "note", what=0)


def test_a_handler_that_raises_tells_its_caller_and_crashes_the_agent_which_starts_again(shared: Fleet) -> None:
    before = shared.generation("victim")
    with pytest.raises(RemoteError) as caught:
        shared.call("victim", "crash", text="no luck")
    assert (caught.value.type, caught.value.message) == ("RuntimeError", "no luck")
    assert 'raise RuntimeError(text)\n' in caught.value.traceback
    row = shared.node.reborn("victim", before)
    assert shared.generation("victim") == before + 1
    assert row["last_exit"]["reason"] == "error(RuntimeError: no luck)"


def test_kill_9_during_a_call_ends_it_at_once_with_the_reason(shared: Fleet) -> None:
    """D6, T34: within 100 ms of root's seeing it; the call itself had no end."""
    before, pid = shared.generation("victim"), shared.pid("victim")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(shared.call, "victim", "nap", timeout=None, seconds=3600.0)
        eventually(lambda: shared.call("victim", "otpd.describe")["handling"])
        inside = pool.submit(shared.call, "a", "ask", None, to="victim", method="add", within=None, args={"a": 1})
        eventually(lambda: shared.call("victim", "otpd.describe")["waiting"] == 1)
        shared.node.kill(pid)
        with pytest.raises(Exited) as caught:
            waiting.result(60)
        assert (caught.value.reason, caught.value.executed) == ("killed", "maybe")
        assert inside.result(60) == ["Exited", "maybe", "killed"]
    assert shared.generation("victim") == before + 1


def test_the_reply_of_a_busy_agent_is_not_lost_when_it_crashes_right_after_it(shared: Fleet) -> None:
    """The runtime flushes before it ends: each of these casts crashes the agent behind a call that was answered."""
    for n in range(3):
        generation = shared.generation("victim")
        with concurrent.futures.ThreadPoolExecutor() as pool, shared.gate("busy") as busy:
            answer = pool.submit(shared.call, "victim", "hold", gate=busy.name)
            eventually(lambda: shared.call("victim", "otpd.describe")["handling"])
            shared.client.cast("victim", "fail", confirm=True, text="behind")
            busy.unlink()
            assert answer.result(60) == "held", n
        shared.node.reborn("victim", generation)


def test_what_a_dead_incarnation_had_not_handled_is_lost_and_comes_to_nobody_again(shared: Fleet) -> None:
    """C5: as an OTP mailbox; and terminate is not called on a kill (rule 125)."""
    generation, pid = shared.generation("victim"), shared.pid("victim")
    shared.client.cast("victim", "note", what="handled")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(shared.call, "victim", "nap", timeout=None, seconds=3600.0)
        eventually(lambda: shared.call("victim", "otpd.describe")["handling"])
        shared.client.cast("victim", "note", confirm=True, what="delivered")
        eventually(lambda: shared.call("victim", "otpd.describe")["waiting"] == 1)
        terminated = shared.node.printed("victim").count("terminate")
        shared.node.kill(pid)
        with pytest.raises(Exited):
            waiting.result(60)
    shared.node.reborn("victim", generation)
    assert shared.heard("victim") == []
    assert shared.node.printed("victim").count("terminate") == terminated


def kill_behind_the_gate(it: Fleet, name: str) -> None:
    """Its next incarnation waits for the gate. Until the broker knows of the death it sends to the dead."""
    it.node.write("closed", "")
    it.call("a", "do", verb="monitor", args=[name])
    it.kill(name)
    eventually(lambda: ["down", name, 1, "killed"] in it.heard("a"))


def test_messages_to_a_name_that_restarts_wait_for_its_next_incarnation() -> None:
    """C3, C6, DESIGN 9.3: buffered, delivered after init() and in order; calls too."""
    slow = 'args = { gate = "closed" }\nstart_timeout = "60s"\nbackoff = { initial = "10ms" }'
    with fleet(actors("a", "slow", slow=slow)) as it:
        kill_behind_the_gate(it, "slow")
        it.call("a", "tell", to="slow", count=50)
        (it.node.home / "closed").unlink()
        assert it.call("a", "ask", to="slow", method="add", args={"a": 1}) == 2
        assert it.heard("slow") == list(range(50))
        assert it.generation("slow") == 2


def test_the_restart_buffer_is_bounded_and_says_so() -> None:
    """DESIGN 9.3: 100 messages, then reject."""
    with fleet(actors("a", "slow", slow='args = { gate = "closed" }\nstart_timeout = "60s"')) as it:
        kill_behind_the_gate(it, "slow")
        it.call("a", "tell", to="slow", count=100, confirm=True)
        with pytest.raises(Overloaded) as caught:
            it.client.cast("slow", "note", confirm=True, what="too much")
        assert caught.value.executed == "no"
        (it.node.home / "closed").unlink()

        def accepted() -> bool:
            with contextlib.suppress(Overloaded):  # until it has connected
                it.client.cast("slow", "note", confirm=True, what="last")
                return True
            return False

        eventually(accepted)
        assert it.heard("slow") == [*range(100), "last"]


def test_stop_reasons_are_those_of_otp() -> None:
    config = actors("a", "b", a='restart = "transient"', b='restart = "transient"')
    with fleet(config) as it:
        it.call("a", "end")
        it.node.when("a", state="stopped")
        assert it.node.worker("a")["last_exit"]["reason"] == "normal"
        it.call("b", "end", reason="bored")
        it.node.reborn("b", 1)
        assert it.node.worker("b")["last_exit"]["reason"] == "error(bored)"
        assert "terminate normal\n" in it.node.printed("a")
        assert "terminate bored\nbored\n" in it.node.printed("b")
