"""Every key of every TOML text is found where it stands, and no text makes the search fail."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpd.supervisor.locate import locate
from otpd.supervisor.problems import KeyPath

TEXT = '''\
# a comment with [a.table] = "in it"
title = "x = 1 # no comment"
[agents.feed]
script = """
[agents.not-a-table]
key = 1""" # after
args = { symbol = "A", "quoted key" = [1, {deep = 2}] }

[agents."b \\u0041"]
'single' . dotted = 1
list = [
  "]", # ]
  'two',
]
[[rows]]
a = 1
[[rows]]
a = 2
[rows.sub]
b = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("title",), (2, 1)),
        (("agents",), (3, 2)),
        (("agents", "feed"), (3, 9)),
        (("agents", "feed", "script"), (4, 1)),
        (("agents", "feed", "args"), (7, 1)),
        (("agents", "feed", "args", "symbol"), (7, 10)),
        (("agents", "feed", "args", "quoted key"), (7, 24)),
        (("agents", "feed", "args", "quoted key", 1), (7, 43)),
        (("agents", "feed", "args", "quoted key", 1, "deep"), (7, 44)),
        (("agents", "b A"), (9, 9)),
        (("agents", "b A", "single"), (10, 1)),
        (("agents", "b A", "single", "dotted"), (10, 12)),
        (("agents", "b A", "list", 0), (12, 3)),
        (("agents", "b A", "list", 1), (13, 3)),
        (("rows", 0, "a"), (16, 1)),
        (("rows", 1), (17, 3)),
        (("rows", 1, "a"), (18, 1)),
        (("rows", 1, "sub", "b"), (20, 1)),
        (("agents", "feed", "missing", "deeper"), (3, 9)),
        (("nothing",), (1, 1)),
    ],
)
def test_a_key_is_found_at_its_line_and_column(path: KeyPath, place: tuple[int, int]) -> None:
    assert locate(TEXT).at(path) == place


def test_windows_line_ends_change_no_place() -> None:
    assert locate(TEXT.replace("\n", "\r\n")).offsets == locate(TEXT).offsets


def test_a_key_and_a_table_that_are_defined_twice_are_told() -> None:
    places = locate("[a]\nx = 1\nx = 2\n[a]\n")
    assert [(item.path, item.place, item.first) for item in places.duplicates()] == [
        (("a", "x"), (3, 1), (2, 1)),
        (("a",), (4, 2), (1, 2)),
    ]


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Every key of a document, and every table in an array."""
    found: list[KeyPath] = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [below for key, item in items for below in paths(item, (*path, key))]


_pieces = st.sampled_from(
    [
        *("a", "b", '"q"', "'l'", "1", "1979-05-27", "true", "é"),
        *(".", "=", ",", "#", "[", "]", "[[", "]]", "{", "}", "'''", '"""', '"', "'"),
        *("\\", "\\n", "\\u0041", " ", "\n", "\r\n", "\t"),
    ]
)
_key = st.text("abc-_1", min_size=1, max_size=3) | st.text(max_size=4).map(lambda text: quoted(text))
_scalar = st.integers().map(str) | st.booleans().map(lambda value: str(value).lower()) | st.text().map(lambda t: quoted(t))
_value = st.recursive(
    _scalar,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[ {', '.join(items)} ]")
        | st.lists(inner, max_size=3).map(lambda items: "[\n" + "".join(f"{item}, # x ]\n" for item in items) + "]")
        | st.dictionaries(_key, inner, max_size=3).map(lambda d: "{" + ", ".join(f"{k} = {v}" for k, v in d.items()) + "}")
    ),
    max_leaves=8,
)
_line = (
    st.tuples(_key, _value).map(" = ".join)
    | st.tuples(_key, _key, _value).map(lambda parts: f"{parts[0]} . {parts[1]}={parts[2]}")
    | st.tuples(_key, _key).map(lambda parts: f"[{'.'.join(parts)}]")
    | _key.map(lambda key: f"[[{key}]]")
    | st.just("x = '''\n[t]\n'''")
)


def quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in text) + '"'


@given(st.lists(_line, max_size=8).map("\n".join))
def test_every_key_that_tomllib_reads_has_a_place(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    places = locate(text)
    assert set(paths(data)) <= set(places.offsets)
    assert not places.duplicates()


@settings(max_examples=300)
@given(st.lists(_pieces, max_size=30).map("".join) | st.text())
def test_no_text_makes_the_search_fail(text: str) -> None:
    places = locate(text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(paths(data)) <= set(places.offsets)


@pytest.mark.parametrize("text", ["[" * 100_000, "a = " + "[" * 100_000, "a=" + "{a=" * 50_000, "a." * 100_000 + "a = 1"])
def test_deep_nesting_ends_the_search_quietly(text: str) -> None:
    assert locate(text).at(("nothing",)) == (1, 1)
