"""Arguments against annotations: of init(), and of every message."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from otpd.agents import ArgumentError
from otpd.agents.arguments import Parameters, bind, fits


def init(symbol: str, n: int = 1, *, rate: float = 1.0, tags: list[str] | None = None) -> None:
    """The signature of the tests below."""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, r"argument symbol: expected str, got nothing; add args = { symbol = ... } to \[agents.feed\]"),
        (
            {"symbol": "A", "nn": 1},
            "argument nn: expected one of symbol, n, rate, tags, got nn; did you mean n?",
        ),
        ({"symbol": "A", "n": True}, r"argument n: expected int, got bool \(True\)"),
        ({"symbol": "A", "tags": ["a", 1]}, r"argument tags: expected list\[str\] | None, got list"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match="agent feed, " + message):
        bind("feed", init, args)


def test_arguments_that_fit_are_passed_on() -> None:
    args = {"symbol": "A", "n": 2, "rate": 3, "tags": ["a"]}
    assert bind("feed", init, args) == args
    assert bind("feed", lambda **kwargs: None, {"any": 1}) == {"any": 1}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, True), (True, float, False), ("x", Literal["x", 1], True), (True, Literal[1], False),
        ([1, 2], tuple[int, int], True), ([1], tuple[int, int], False), ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False), (5, "unknown", True), ([1], tuple[int, ...], True),
        (None, None, True), ("abc", list[str], False),
    ],
)  # fmt: skip
def test_what_fits_an_annotation(value: object, hint: object, expected: bool) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        ({"symbol": "A"}, None),
        ({"symbol": "A", "n": 2, "rate": 1, "tags": []}, None),
        ({}, "argument symbol: expected str, got nothing"),
        ({"symbol": "A", "rate": "fast"}, "argument rate: expected float, got str ('fast')"),
        ({"symbol": "A", "n": False}, "argument n: expected int, got bool (False)"),
        ({"symbol": "A", 5: 1}, "argument 5: expected one of symbol, n, rate, tags, got 5"),
        ({"symbol": "A" * 9, "n": "x" * 1000}, f"argument n: expected int, got str ('{'x' * 76}...)"),
    ],
)
def test_what_is_wrong_with_the_arguments_of_a_message(args: dict[Any, Any], wrong: str | None) -> None:
    assert Parameters(init).wrong(args) == wrong


def test_a_signature_is_shown_as_people_write_it() -> None:
    assert Parameters(init).doc == (
        "(symbol: str, n: int = 1, *, rate: float = 1.0, tags: list[str] | None = None) -> None"
    )


def test_a_function_without_annotations_takes_anything_by_the_right_names() -> None:
    parameters = Parameters(lambda a, b=1: None)
    assert parameters.wrong({"a": object()}) is None
    assert parameters.wrong({"b": 1}) == "argument a: expected a value, got nothing"


def test_keywords_must_be_text_even_for_who_takes_any() -> None:
    """`handler(**{5: 1})` would be the crash of an agent by what another has sent."""
    parameters = Parameters(lambda **any_: None)
    assert parameters.wrong({"a": 1}) is None
    assert parameters.wrong({5: 1}) == "argument 5: expected no argument, got 5"


@pytest.mark.parametrize("of", ["self", "this"])
def test_the_name_of_the_first_parameter_is_not_for_who_takes_any(of: str) -> None:
    """`handler(agent, **{"self": 1})` would be the crash of an agent, too."""
    function = eval(f"lambda {of}, sku, **any_: None")
    assert Parameters(function, bound=True).wrong({"sku": 1, "other": 2}) is None
    assert Parameters(function, bound=True).wrong({"sku": 1, of: 2}) == f"argument {of}: expected one of sku, got {of}"


def test_a_first_parameter_that_is_not_for_keywords_leaves_its_name_free() -> None:
    def function(self: Any, /, **any_: Any) -> None: ...

    assert Parameters(function, bound=True).wrong({"self": 1}) is None


def test_an_argument_that_would_take_the_place_of_the_agent_is_refused_with_what_to_do() -> None:
    class Feed:
        def init(self, **any_: Any) -> None: ...

    assert bind("feed", Feed().init, {"symbol": "A"}) == {"symbol": "A"}
    with pytest.raises(ArgumentError, match=r"agent feed, argument self: .*: call the argument otherwise"):
        bind("feed", Feed().init, {"self": 1})
