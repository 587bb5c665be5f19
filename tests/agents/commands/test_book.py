"""Whose a command is, what is remembered of it, and what is cut into pieces."""

from __future__ import annotations

from typing import Any

from otpd.agents.sandbox import Result
from otpd.agents.services.commands.book import KEPT, MOST_KEPT, REMEMBERED, Book, Entry, Owner, answered, bound, cut, shown

A1, A2, B1 = Owner("a", 1), Owner("a", 2), Owner("b", 1)


def entry(book: Book[str], owner: Owner) -> Entry[str]:
    return Entry(book.fresh_id(), owner, "true", "default", "run", 100.0)


def record(**more: Any) -> dict[str, Any]:
    return {**Result("r", "exited", exit_code=0).to_dict(), **more}


def test_an_owner_is_to_be_watched_from_its_first_command_on_and_again_as_another_incarnation() -> None:
    book: Book[str] = Book(1)
    assert [book.begin(entry(book, owner)) for owner in (A1, A1, B1, A2, A2)] == [True, False, True, True, False]


def test_an_own_child_is_bound_by_every_list_above_it_and_its_own() -> None:
    lists: dict[str, list[str] | None] = {"boss": ["ls"], "a": ["git"], "b-1": None, "b": ["sh"]}

    def bounds(name: str, *owners: str) -> object:
        found = bound(Owner(name, 1), {"generation": 1, "owners": list(owners)}, lists)
        return found and found.bounds

    assert (bounds("boss"), bounds("x"), bounds("x", "y")) == ({"boss": ["ls"]}, {}, {})
    assert (bounds("x", "boss"), bounds("x", "y", "boss")) == ({"boss": ["ls"]}, {"boss": ["ls"]})
    assert bounds("a", "boss") == {"a": ["git"], "boss": ["ls"]}
    assert (bounds("b-1", "boss"), bounds("x", "b-1")) == ({"boss": ["ls"]}, {})


def test_of_an_incarnation_that_nobody_knows_it_can_not_be_told_what_binds_it() -> None:
    known = {"generation": 1, "owners": []}
    assert (bound(A2, None, {"b": ["ls"]}), bound(A2, known, {"b": ["ls"]})) == (None, None)


def test_what_binds_an_owner_is_known_as_long_as_it_is_watched() -> None:
    book: Book[str] = Book(1)
    book.begin(entry(book, Owner("a", 1, {"a": ["ls"]})))
    known = book.known(A1)
    assert (known and known.bounds, book.known(A2), book.known(B1)) == ({"a": ["ls"]}, None, None)
    book.end_of("a", 1)
    assert book.known(A1) is None


def test_a_command_is_found_by_its_owner_alone() -> None:
    book: Book[str] = Book(7)
    mine = entry(book, A1)
    book.begin(mine)
    assert (mine.id, book.find(mine.id, A1), book.find(mine.id, A2), book.find(mine.id, B1)) == ("c7-1", mine, None, None)
    book.forget(mine)
    assert book.find(mine.id, A1) is None


def test_the_end_of_an_owner_is_that_of_its_commands_and_of_nobody_elses() -> None:
    book: Book[str] = Book(1)
    old, new, other = entry(book, A1), entry(book, A2), entry(book, B1)
    for each in (old, new, other):
        book.begin(each)
    assert book.end_of("a", 1) == [old]
    assert not book.begin(entry(book, A2))  # the newer one is still watched
    assert book.end_of("nobody", 0) == []
    assert book.end_of("b", 0) == [other]  # there was none when it was asked for
    assert book.begin(entry(book, B1))


def test_a_result_that_nobody_reads_is_kept_for_a_while() -> None:
    book: Book[str] = Book(1)
    mine = entry(book, A1)
    book.begin(mine)
    assert book.late(1e9) == []
    book.over(mine, record(), 50.0)
    assert (book.late(50.0 + KEPT - 1), book.late(50.0 + KEPT)) == ([], [mine])


def test_the_last_commands_are_remembered_with_what_became_of_them() -> None:
    book: Book[str] = Book(1)
    for number in range(REMEMBERED + 5):
        each = entry(book, A1)
        book.begin(each)
        book.over(each, record(exit_code=number), 0.0)
        book.forget(each)
    last = book.last(2)
    assert [(row["id"], row["argv"], row["caller"], row["status"], row["exit_code"]) for row in last] == [
        (f"c1-{REMEMBERED + 4}", "true", "a", "exited", REMEMBERED + 3),
        (f"c1-{REMEMBERED + 5}", "true", "a", "exited", REMEMBERED + 4),
    ]
    assert (len(book.last(10**6)), book.last(0)) == (REMEMBERED, [])


def test_a_command_is_shown_in_one_line_as_one_would_type_it() -> None:
    assert shown(["sh", "-c", "echo a b"], None) == "sh -c 'echo a b'"
    assert shown([b"a b", "x\ny"], None) == "'a b' 'x\\ny'"
    assert shown(["-c"], "print(1)\n") == "exec_python 'print(1)\\n'"
    assert shown("no list", None) == "'no list'"
    assert len(shown(["x" * 1000], None)) == 303


def test_output_that_is_too_large_for_an_answer_is_cut_into_pieces() -> None:
    small, none = cut({"stdout": b"ab", "stderr": b"cd", "id": "x"}, inline=4, piece=3)
    assert (small, list(none)) == ({"stdout": b"ab", "stderr": b"cd", "id": "x"}, [])
    large, pieces = cut({"stdout": b"abcde", "stderr": b"f", "id": "x"}, inline=4, piece=3)
    assert large == {"stdout": b"", "stderr": b"", "id": "x"}
    assert list(pieces) == [("stdout", b"abc"), ("stdout", b"de"), ("stderr", b"f")]


def test_output_that_waits_to_be_read_is_held_once_and_the_record_at_its_end_is_without_it() -> None:
    book: Book[str] = Book(1)
    made, output = entry(book, A1), b"abcde"
    book.begin(made)
    book.over(made, {**record(), "stdout": output, "stderr": b""}, 0.0)
    bare = record(stdout=b"", stderr=b"")
    assert (answered(made, inline=4, piece=3), made.record) == ({**bare, "more": True}, bare)
    assert [each.obj is output for _, each in made.pieces] == [True, True]


def test_what_nobody_reads_is_bounded_and_the_oldest_goes_first() -> None:
    book: Book[str] = Book(1)
    old, running, middle, new = (entry(book, A1) for _ in range(4))
    for each in (old, running, middle, new):
        book.begin(each)
    for each in (old, middle, new):
        book.over(each, record(), 0.0)
    third = MOST_KEPT // 3
    fits = {each.id: third for each in (old, running, middle, new)}
    assert book.crowded(fits) == []
    assert book.crowded({**fits, new.id: third + 3}) == [old]
    assert book.crowded({**fits, new.id: 10 * MOST_KEPT}) == [old, middle]
