"""Reading logs: by number, by time, by generation, and as they come, across rotation and whatever happens to the files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otpd.supervisor import logstore
from otpd.supervisor.logindex import RECORD_SIZE, Record, count_records, first_at_offset, first_at_time, pack_record
from otpd.supervisor.logpaths import Segment, child_name, directory_name, segments
from otpd.supervisor.logstore import LINE_LIMIT, Entry, Follower, Reader, cut_tail, last_lines, raw, since, tail
from tests.supervisor.logwriting import SECOND, Writing


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    return Writing(tmp_path / "logs")


def texts(entries: object) -> list[str]:
    return [entry.text() for entry in entries]  # type: ignore[attr-defined]


# --- names ---


@given(st.text())
def test_a_name_can_be_told_from_its_directory(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    directory = directory_name(name)
    assert len(os.fsencode(directory)) <= 200
    assert "/" not in directory and "\0" not in directory and not directory.startswith(".") and directory
    if "%-" not in directory:
        assert child_name(directory) == name


def test_what_is_no_log_directory_has_no_name(tmp_path: Path, writing: Writing) -> None:
    writing.write("web", b"x")
    for stranger in (".probe", "%zz", "%-", "%2e"):
        (tmp_path / "logs" / stranger).mkdir()
    (tmp_path / "logs" / "file").touch()
    assert logstore.names(tmp_path / "logs") == ["web"]
    assert logstore.names(tmp_path / "nowhere") == []


# --- the index ---


def test_records_are_found_by_offset_and_time(tmp_path: Path) -> None:
    path = str(tmp_path / "idx")
    records = [Record(0, 10, 1), Record(5, 20, 1), Record(5, 30, 2), Record(9, 40, 2)]
    Path(path).write_bytes(b"".join(map(pack_record, records)) + b"torn")
    assert count_records(path) == 4
    assert [first_at_offset(path, offset) for offset in (0, 1, 5, 6, 9, 10)] == [0, 1, 1, 3, 3, 4]
    assert [first_at_time(path, at) for at in (5, 10, 11, 30, 41)] == [0, 0, 1, 2, 4]
    assert [count_records(path + "x"), first_at_time(path + "x", 1)] == [0, 0]


def test_a_lines_time_is_that_of_its_first_byte(writing: Writing) -> None:
    for data in (b"on", b"e\ntw", b"o\n", b"three\n"):
        writing.write("web", data)
    found = [(entry.at_ns // SECOND, entry.line) for entry in tail(writing.logs, ["web"], 9)]
    assert found == [(1000, b"one"), (1001, b"two"), (1003, b"three")]


# --- tail ---


@pytest.mark.parametrize("max_bytes", [7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("n", [0, 1, 2, 10, 99, 100, 1000])
def test_the_last_lines_are_found_wherever_segments_end(tmp_path: Path, max_bytes: int, end: bytes, n: int) -> None:
    writing = Writing(tmp_path, max_bytes)
    lines = [b"line %d" % number for number in range(100)]
    writing.write("web", b"\n".join(lines) + end)
    assert [entry.line for entry in tail(tmp_path, ["web"], n)] == (lines[-n:] if n else [])
    data = b"\n".join(lines) + end
    assert b"".join(raw(tmp_path, "web", n)) == (b"\n".join(lines[-n:]) + end if n else b"")
    assert b"".join(raw(tmp_path, "web")) == data


def test_empty_lines_are_lines(writing: Writing) -> None:
    writing.write("web", b"a\n\n\nb\n\n")
    assert texts(tail(writing.logs, ["web"], 3)) == ["", "b", ""]


def test_lines_of_several_names_are_merged_by_time(writing: Writing) -> None:
    for number in range(6):
        writing.write("ab"[number % 2], b"%d\n" % number)
    assert texts(tail(writing.logs, ["a", "b"], 4)) == ["2", "3", "4", "5"]
    assert texts(since(writing.logs, ["a", "b"], 0)) == ["0", "1", "2", "3", "4", "5"]


def test_a_gap_is_shown_where_bytes_are_missing(writing: Writing) -> None:
    writing.write("web", b"one\nha")
    writing.gap("web", 77)
    writing.write("web", b"lf\nthree\n")
    assert texts(tail(writing.logs, ["web"], 9)) == ["one", "ha", "[otpd: 77 bytes dropped]", "lf", "three"]
    assert texts(tail(writing.logs, ["web"], 3)) == ["[otpd: 77 bytes dropped]", "lf", "three"]


def test_a_name_without_a_log_has_no_lines(writing: Writing) -> None:
    assert tail(writing.logs, ["web"], 9) == []
    assert list(since(writing.logs, ["web"], 0)) == list(since(writing.logs, ["web"], 5)) == []
    assert last_lines(writing.logs, "web", 1) == []
    assert Follower(writing.logs, ["web"]).poll() == []


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=30)), max_size=20), st.integers(1, 40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_and_no_generation_is_mixed_up(tmp_path: Path, parts: list[tuple[int, bytes]], max_bytes: int) -> None:
    shutil.rmtree(tmp_path / "logs", ignore_errors=True)
    writing = Writing(tmp_path / "logs", max_bytes)
    model: list[tuple[int, bytes]] = []
    for generation, data in parts:
        writing.write("web", data, generation)
        if data and model and model[-1][0] == generation:
            model[-1] = (generation, model[-1][1] + data)
        elif data:
            model.append((generation, data))
    lines = [(generation, line) for generation, data in model for line in data.removesuffix(b"\n").split(b"\n")]
    assert b"".join(raw(tmp_path / "logs", "web")) == b"".join(data for _, data in parts)
    assert [(entry.generation, entry.line) for entry in since(tmp_path / "logs", ["web"], 0)] == lines
    assert [(entry.generation, entry.line) for entry in tail(tmp_path / "logs", ["web"], 3)] == lines[-3:]
    for generation in (1, 2, 3):
        mine = b"".join(data for other, data in parts if other == generation)
        assert last_lines(tmp_path / "logs", "web", generation) == cut_tail(mine)


def test_damaged_and_missing_index_files_cost_the_times_but_not_the_lines(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=21)
    writing.write("web", b"".join(b"line %d\n" % number for number in range(10)))
    found = segments(str(tmp_path / "web"))
    os.unlink(found[0].index)
    os.truncate(found[1].index, RECORD_SIZE - 1)
    Path(found[2].index).write_bytes(b"\xff" * 100)
    assert texts(tail(tmp_path, ["web"], 99)) == [f"line {number}" for number in range(10)]
    assert texts(tail(tmp_path, ["web"], 2)) == ["line 8", "line 9"]


# --- since ---


def test_since_begins_with_the_first_line_that_began_then(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=25)
    for number in range(10):
        writing.write("web", b"line %d\n" % number)
    for first in range(11):
        found = texts(since(tmp_path, ["web"], (1000 + first) * SECOND))
        assert found == [f"line {number}" for number in range(first, 10)]
    assert len(texts(since(tmp_path, ["web"], 1))) == 10


def test_since_does_not_begin_in_the_middle_of_a_line(writing: Writing) -> None:
    for data in (b"one\ntw", b"o\n", b"three\n"):
        writing.write("web", data)
    assert texts(since(writing.logs, ["web"], 1001 * SECOND)) == ["three"]


# --- the last lines of a generation ---


def test_the_lines_of_one_generation_are_found_behind_those_of_later_ones(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=50)
    for generation in range(1, 30):
        writing.write("web", b"".join(b"%d.%d\n" % (generation, number) for number in range(5)), generation)
    assert last_lines(tmp_path, "web", 7) == ["7.0", "7.1", "7.2", "7.3", "7.4"]
    assert last_lines(tmp_path, "web", 7, n=2) == ["7.3", "7.4"]
    assert last_lines(tmp_path, "web", 99) == []


def test_last_lines_stay_within_their_limits() -> None:
    assert cut_tail(b"") == []
    assert cut_tail(b"\n") == [""]
    assert cut_tail(b"a\nb\r\nc", 2) == ["b", "c"]
    assert cut_tail(b"x" * 2000) == ["x" * 1021 + "..."]
    assert cut_tail(b"begin lost\nb", complete=False) == ["...begin lost", "b"]
    assert cut_tail(b"begin lost\nb\nc", 2, complete=False) == ["b", "c"]
    lines = cut_tail(b"\n".join([b"\xff" * 600] * 9))
    assert 0 < sum(map(len, lines)) <= 4096
    assert all(len(line) <= 1024 and line.startswith("\\xff\\xff") for line in lines)


def test_the_tail_of_a_line_longer_than_a_segment_is_found(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=100_000)
    writing.write("web", b"first\n" + b"x" * 500_000 + b"\nlast\n", 4)
    found = last_lines(tmp_path, "web", 4)
    assert [line[:9] for line in found] == ["...xxxxxx", "last"]


# --- following ---


def test_new_lines_come_once_and_in_order_across_rotation(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=11)
    writing.write("web", b"old\n")
    follower = Follower(tmp_path, ["web"])
    follower.to_end()
    seen: list[str] = []
    for number in range(50):
        writing.write("web", b"%d\n%d" % (number, number))
        seen += texts(follower.poll())
    assert seen == ["0", *(f"{number - 1}{number}" for number in range(1, 50))]
    assert follower.poll() == []


def test_new_names_are_followed_from_their_first_line(writing: Writing) -> None:
    follower = Follower(writing.logs)
    assert follower.poll() == []
    writing.write("late", b"hello\n")
    assert [(entry.name, entry.line) for entry in follower.poll()] == [("late", b"hello")]


def test_following_survives_the_removal_of_the_logs(tmp_path: Path) -> None:
    writing = Writing(tmp_path / "logs")
    follower = Follower(writing.logs, ["web"])
    writing.write("web", b"a long first line\n")
    assert texts(follower.poll()) == ["a long first line"]
    shutil.rmtree(writing.logs)
    assert follower.poll() == []
    writing.write("web", b"2\n")
    assert texts(follower.poll()) == ["2"]
    writing.write("web", b"3\n")
    assert texts(follower.poll()) == ["3"]


def test_following_skips_what_was_rotated_away_before_it_was_read(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=4, keep=1)
    follower = Follower(tmp_path, ["web"])
    writing.write("web", b"000\n")
    assert texts(follower.poll()) == ["000"]
    for number in range(1, 10):
        writing.write("web", b"%03d\n" % number)
    assert texts(follower.poll()) == ["008", "009"]


def test_a_line_without_end_is_given_when_it_is_old_enough(writing: Writing) -> None:
    reader = Reader(writing.logs, "web")
    writing.write("web", b"password: ")
    assert texts(reader.lines()) == texts(reader.rest(60)) == []
    assert texts(reader.rest(0)) == ["password: "]
    writing.write("web", b"ok\n")
    assert texts(reader.lines()) == ["ok"]


def test_a_flood_is_given_in_portions(writing: Writing) -> None:
    writing.write("web", b"x" * 99 + b"\n")
    writing.write("web", (b"x" * 99 + b"\n") * 50_000)
    follower = Follower(writing.logs, ["web"])
    counts = [len(follower.poll()) for _ in range(7)]
    assert sum(counts) == 50_001
    assert max(counts) < 12_000
    assert counts[-1] == 0


# --- bounds ---


def test_a_line_of_32_MiB_is_cut_and_costs_little_memory(tmp_path: Path) -> None:
    writing = Writing(tmp_path, max_bytes=1 << 20)
    writing.write("web", b"a\n" + b"x" * (32 << 20) + b"\nz\n")
    tracemalloc.start()
    try:
        found = tail(tmp_path, ["web"], 3)
        assert last_lines(tmp_path, "web", 1)[-1] == "z"
        assert sum(map(len, raw(tmp_path, "web"))) == (32 << 20) + 5
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert [(len(entry.line), entry.more) for entry in found] == [
        (1, 0),
        (LINE_LIMIT, (32 << 20) - LINE_LIMIT),
        (1, 0),
    ]
    assert found[1].text().endswith(f"x... [otpd: {(32 << 20) - LINE_LIMIT} bytes more]")


def test_reading_keeps_no_descriptor_open(writing: Writing) -> None:
    writing.write("web", b"a\nb\n")
    before = os.listdir("/proc/self/fd")
    lines = since(writing.logs, ["web"], 0)
    next(lines)
    Follower(writing.logs).poll()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_bytes_that_are_no_text_are_shown_escaped() -> None:
    assert Entry(0, "web", 1, b"\xffa\xc3\xa9\xc3").text() == "\\xffaé\\xc3"


def test_reading_needs_neither_messages_nor_pictures() -> None:
    code = (
        "import sys, otpd.supervisor.logstore; print([m for m in ('zmq', 'asyncio', 'rich', 'click') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_segment_knows_its_files() -> None:
    segment = Segment("/logs/web", 12)
    assert (segment.log, segment.index) == ("/logs/web/00000012.log", "/logs/web/00000012.idx")


def test_a_dump_of_stacks_is_kept_whole_because_its_first_frames_matter_most() -> None:
    frames = [f'  File "lib.py", line {n} in call' for n in range(60)]
    dump = ["Thread 0x00007f (most recent call first):", '  File "agent.py", line 1 in stuck', *frames, "still working"]
    printed = [f"line {n}" for n in range(50)]
    assert logstore.cut_tail("\n".join([*printed, *dump, ""]).encode()) == dump
    assert logstore.cut_tail("\n".join([*dump, *(printed * 4), ""]).encode()) == printed[-20:]
    short = [*printed, dump[0], dump[1]]
    assert logstore.cut_tail("\n".join(short).encode()) == short[-20:]
