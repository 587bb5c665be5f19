"""Plans and reports: what is written is what is read."""

from __future__ import annotations

import pytest

from otpd.agents.sandbox import records
from otpd.agents.sandbox.records import Kind, Record, Report, Step, Word


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = b"".join(
        [
            records.text(Kind.LINK, "bin", "usr/bin"),
            records.number(Kind.IDENTITY, -1),
            records.limit(7, 256, 2**64 - 1),
            records.mount(3, "/srv/ws", file=True),
            records.file("a/b", b"\0content\0", 0o600),
            records.landlock(1, 2, 3),
            records.allow(2**40, "/tmp"),
        ]
    )
    found = list(records.read(plan))
    assert [record.kind for record in found] == [2 + 1, 10, 44, 32, 48, 46, 47]
    assert records.texts(found[0].payload) == ["bin", "usr/bin"]
    assert records.one_number(found[1].payload) == -1
    assert records.one_limit(found[2].payload) == (7, 256, 2**64 - 1)
    assert (found[3].flags, records.one_mount(found[3].payload)) == (1, (3, "/srv/ws"))
    assert (found[4].flags, records.one_file(found[4].payload)) == (0o600, ("a/b", b"\0content\0"))
    assert records.one_landlock(found[5].payload) == (1, 2, 3)
    assert records.one_allow(found[6].payload) == (2**40, "/tmp")


def test_names_that_are_no_text_survive() -> None:
    record = next(records.read(records.text(Kind.ARGUMENT, b"\xff\xfe")))
    assert record == Record(Kind.ARGUMENT, 0, b"\xff\xfe\0")


def test_a_plan_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a record of 4 bytes, got 2"):
        list(records.read(records.text(Kind.ARGUMENT, "abc")[:-2]))


def test_a_report_is_read_as_it_was_written() -> None:
    report = Report(Word.ENDED, Step.EXEC, 7, 13, 0x0B00, 2, 1_000_000, 2**40, 5)
    assert Report.unpack(report.pack()) == report


def test_something_else_is_no_report() -> None:
    with pytest.raises(ValueError, match="expected a report of 40 bytes, got 3"):
        Report.unpack(b"abc")
