"""`otpd call` and its siblings, as far as they need no broker: arguments, errors as exit codes, what is printed."""

from __future__ import annotations

import pytest

from otpd.agents import (
    BadArguments,
    BrokerLost,
    CallTimeout,
    CircuitOpen,
    NodeNotRunning,
    NoMethod,
    NoProcess,
    OtpdError,
    Reject,
)
from otpd.cli.describe_view import render
from otpd.cli.failures import Failure
from otpd.cli.messages import failure_of, keywords
from otpd.cli.output import plain
from tests.cli.fake import FakeNode, worker


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoProcess("x"), 4), (CallTimeout("x", "maybe"), 8), (BadArguments("x"), 2), (NoMethod("x"), 2),
        (CircuitOpen("x"), 3), (NodeNotRunning("x"), 7), (Reject("x"), 1), (BrokerLost("x"), 1),
    ],
)  # fmt: skip
def test_an_error_of_a_message_is_an_exit_code(error: OtpdError, code: int) -> None:
    assert failure_of(error).code == code


def test_what_an_error_says_last_is_the_next_step() -> None:
    failure = failure_of(NoProcess("call of x.y: nobody has this name; see who is there with: otpd status"))
    assert (failure.what, failure.hint) == ("call of x.y: nobody has this name", "see who is there with: otpd status")


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("no dead letter 9; see them with: otpd letters", "no dead letter 9", "see them with: otpd letters"),
        ("sold out", "sold out", "nothing has crashed: correct what it names, and ask again"),
        ("sold out; try B", "sold out; try B", "nothing has crashed: correct what it names, and ask again"),
    ],
)
def test_an_answer_that_says_no_is_not_told_as_a_crash(said: str, what: str, hint: str) -> None:
    failure = failure_of(Reject(said))
    assert (failure.code, failure.what, failure.hint) == (1, what, hint)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("sku",), "expected an argument such as sku=A or n=3, got 'sku'"),
        (("a b=1",), "expected an argument such as sku=A or n=3, got 'a b=1'"),
        (("n=1", "n=2"), "the argument n is given twice"),
        (("timeout=3",), "an agent can't take an argument named timeout: it belongs to the message"),
    ],
)
def test_arguments_that_can_not_be_meant_are_a_usage_error(words: tuple[str, ...], what: str) -> None:
    with pytest.raises(Failure) as caught:
        keywords(words)
    assert (caught.value.code, caught.value.what) == (2, what)


def test_without_a_node_a_call_is_exit_7(down: FakeNode) -> None:
    assert down.otpd("call", "feed", "last", code=7).stderr.splitlines()[1] == "next: start it with: otpd start"


def test_a_description_in_lines() -> None:
    found = {
        "name": "inventory", "class": "Inventory", "doc": "Keeps the stock.",
        "calls": [{"name": "reserve", "signature": "(sku: str, n: int = 1) -> int", "doc": "Takes from the stock."}],
        "casts": [], "topics": [{"name": "cancelled", "signature": "(event)", "doc": "", "pattern": "orders.*.cancelled"}],
    }  # fmt: skip
    assert [plain(line) for line in render(found)] == [
        "inventory  Inventory",
        "Keeps the stock.",
        "",
        "calls",
        "  reserve(sku: str, n: int = 1) -> int",
        "      Takes from the stock.",
        "",
        "topics",
        "  orders.*.cancelled -> cancelled(event)",
    ]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_broker_that_does_not_come_back_by_itself_is_not_waited_for(node: FakeNode, state: str) -> None:
    node.answers["status"] = [worker("broker", kind="service", state=state)]
    done = node.otpd("call", "feed", "last", "--timeout", "1h", code=3)
    assert done.stderr == (
        f"otpd: there is no broker now: it is {state}\nnext: start it with: otpd child start broker\n"
    )


def test_a_breaker_is_asked_of_root(node: FakeNode) -> None:
    node.answers["breaker"] = "open"
    assert node.otpd("breaker", "feed", "open").stdout == "breaker of feed is open: calls to it fail at once\n"
    assert node.asked("breaker") == [{"name": "feed", "mode": "open"}]
