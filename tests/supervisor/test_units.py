"""Durations and sizes are read exactly, written back exactly, and refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor.problems import Invalid
from otpd.supervisor.units import MAX_SIZE, format_duration, format_size, parse_duration, parse_size

_DURATION = 'expected a duration such as "250ms", "5s", "2m" or "1h", got '
_SIZE = 'expected a size such as "512KiB", "64MiB" or "2GiB", got '


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5.0), ("2m", 120.0), ("1h", 3600.0), ("0s", 0.0), ("1.5s", 1.5), ("87600h", 315360000.0)],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, _DURATION + 'the integer 5; did you mean "5s"?'),
        (2.5, _DURATION + 'the float 2.5; did you mean "2.5s"?'),
        (True, _DURATION + "true"),
        (["5s"], _DURATION + "an array"),
        ("5", _DURATION + 'the string "5": it has no unit; did you mean "5s"?'),
        ("-5s", _DURATION + 'the string "-5s": it is negative'),
        ("5 s", _DURATION + 'the string "5 s"; did you mean "5s"?'),
        ("+5s", _DURATION + 'the string "+5s"; did you mean "5s"?'),
        ("5min", _DURATION + 'the string "5min"; did you mean "5m"?'),
        ("5S", _DURATION + 'the string "5S"; did you mean "5s"?'),
        ("5d", _DURATION + 'the string "5d": no such unit: "d"'),
        ("soon", _DURATION + 'the string "soon"'),
        ("", _DURATION + 'the string ""'),
        ("\u0665s", _DURATION + 'the string "\u0665s"'),
        ("1e3s", _DURATION + 'the string "1e3s": no such unit: "e3s"'),
        ("87601h", 'expected a duration of at most 87600h (ten years), got the string "87601h"'),
        ("9" * 400 + "s", f'expected a duration of at most 87600h (ten years), got the string "{"9" * 57}..."'),
    ],
)
def test_anything_else_is_no_duration(value: object, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_duration(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("100B", 100), ("4KiB", 4096), ("64MiB", 2**26), ("2GiB", 2**31), ("1TiB", 2**40), ("1.5KiB", 1536)],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1024, _SIZE + 'the integer 1024; did you mean "1024B"?'),
        ("64MB", _SIZE + 'the string "64MB"; did you mean "64MiB"?'),
        ("64M", _SIZE + 'the string "64M"; did you mean "64MiB"?'),
        ("64", _SIZE + 'the string "64": it has no unit; did you mean "64B"?'),
        ("-1MiB", _SIZE + 'the string "-1MiB": it is negative'),
        ("1PiB", _SIZE + 'the string "1PiB": no such unit: "PiB"'),
        ("8388608TiB", 'expected a size of less than 8388608TiB, got the string "8388608TiB"'),
        ("9" * 5000 + "B", f'expected a size of less than 8388608TiB, got the string "{"9" * 57}..."'),
    ],
)
def test_anything_else_is_no_size(value: object, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_size(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0ms"), (0.25, "250ms"), (5.0, "5s"), (90.0, "90s"), (120.0, "2m"), (3600.0, "1h")]
)
def test_a_duration_is_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(["ms", "s", "m"]))
def test_every_duration_survives_being_written_and_read(whole: int, part: int, unit: str) -> None:
    seconds = parse_duration(f"{whole}.{part:03}{unit}")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, MAX_SIZE))
def test_every_size_survives_being_written_and_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_no_text_makes_a_parser_fail_in_another_way(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except Invalid as error:
            assert str(error).startswith("expected a ")
