"""The real logger process on real pipes: what is printed is stored, whatever happens to the logger and to the disk."""

from __future__ import annotations

import array
import contextlib
import fcntl
import hashlib
import os
import random
import resource
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.ipc.frames import send_packet
from otpd.supervisor import logstore
from otpd.supervisor.logevents import EventLog
from otpd.supervisor.logpaths import directory_name, segments
from tests.helpers import eventually
from tests.supervisor.logroot import LogRoot
from tests.supervisor.logwriting import stored_events

#: Writes argv[1] bytes of counted blocks of random size and then their SHA-256 to argv[2].
WRITER = """
import hashlib, os, random, sys
left, digest, dice = int(sys.argv[1]), hashlib.sha256(), random.Random(7)
sizes = [int(size) for size in sys.argv[3:]]
count = 0
while left:
    block = (b"%d:" % count) * dice.choice(sizes) + dice.choice((b"", b"\\n", b"\\0\\xff\\r"))
    block = block[:left]
    os.write(1, block)  # a pipe: blocks until all of it is in
    digest.update(block)
    left -= len(block)
    count += 1
open(sys.argv[2], "w").write(digest.hexdigest())
"""

#: Writes argv[1] random bytes, always the same.
RANDOM = "import os, random, sys; os.write(1, random.Random(1).randbytes(int(sys.argv[1])))"


def stored(logs: Path, name: str) -> bytes:
    return b"".join(logstore.raw(logs, name))


def stored_digest(logs: Path, name: str) -> str:
    digest = hashlib.sha256()
    for data in logstore.raw(logs, name):
        digest.update(data)
    return digest.hexdigest()


def last_segment(logs: Path, name: str) -> Path:
    return Path(segments(str(logs / directory_name(name)))[-1].log)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def root(logs: Path) -> Iterator[LogRoot]:
    before = len(os.listdir("/proc/self/fd"))
    with LogRoot(logs) as root:
        yield root
    assert len(os.listdir("/proc/self/fd")) <= before


# --- storing ---


def test_every_byte_is_stored_as_it_was_written(root: LogRoot, logs: Path) -> None:
    data = bytes(range(256)) * 3 + "é".encode()[:1] + b"\x1b[31mred\r\n\0no newline at the end"
    write = root.open("web")
    for byte in data:
        os.write(write, bytes([byte]))
    os.close(write)
    root.hear("eof", "web", 1)
    assert stored(logs, "web") == data


@pytest.mark.parametrize(
    "name", [".", "..", "a b", "%2E", ".hidden", "ünïcode", "x" * 255, "ü" * 200, "a\nb", "-rf", "name"]
)
def test_any_name_has_a_log_of_its_own(root: LogRoot, logs: Path, name: str) -> None:
    write = root.open(name)
    os.write(write, b"hello\n")
    os.close(write)
    assert root.hear("eof", name, 1) == ["eof", name, 1, ["hello"]]
    assert logstore.names(logs) == [name]
    assert [entry.line for entry in logstore.tail(logs, [name], 5)] == [b"hello"]
    assert sorted(os.listdir(logs.parent)) == ["logs"]


def test_a_silent_child_has_a_name_and_no_file(root: LogRoot, logs: Path) -> None:
    os.close(root.open("mute"))
    assert root.hear("eof") == ["eof", "mute", 1, []]
    assert logstore.names(logs) == ["mute"]
    assert os.listdir(logs / "mute") == []


def test_output_is_rotated_and_only_so_many_segments_are_kept(logs: Path) -> None:
    with LogRoot(logs, max_bytes=1000, keep=2) as root:
        write = root.open("web")
        for number in range(1000):
            os.write(write, b"%06d\n" % number)
        root.flush()
        os.close(write)
        root.hear("eof")
        assert sorted(os.listdir(logs / "web")) == [
            f"0000000{number}.{kind}" for number in (5, 6, 7) for kind in ("idx", "log")
        ]
        assert stored(logs, "web") == b"".join(b"%06d\n" % number for number in range(1000))[4000:]


def test_the_last_lines_are_told_also_when_they_lie_in_several_segments(logs: Path) -> None:
    with LogRoot(logs, max_bytes=40, keep=1000) as root:
        for generation in (1, 2):
            write = root.open("web", generation)
            os.write(write, b"".join(b"%d line %d\n" % (generation, number) for number in range(50)) + b"half")
            os.close(write)
            lines = [f"{generation} line {number}" for number in range(31, 50)] + ["half"]
            assert root.hear("eof") == ["eof", "web", generation, lines]


def test_the_tail_of_an_incarnation_is_bounded(root: LogRoot) -> None:
    write = root.open("web")
    os.write(write, b"".join(bytes([97 + number]) * 3000 + b"\n" for number in range(10)))
    os.close(write)
    assert root.hear("eof")[3] == [letter * 1021 + "..." for letter in "ghij"]


def test_the_tail_can_be_asked_for_while_a_grandchild_holds_the_pipe(root: LogRoot) -> None:
    write = root.open("web")
    os.write(write, b"last words \xff\n")
    root.send("exited", "web", 1)
    root.send("tail", "web", 1)
    assert root.hear("tail") == ["tail", "web", 1, ["last words \\xff"]]
    os.close(write)
    root.hear("eof")
    root.send("tail", "web", 1)
    assert root.hear("tail") == ["tail", "web", 1, ["last words \\xff"]]
    root.send("tail", "nobody", 3)
    assert root.hear("tail") == ["tail", "nobody", 3, []]


def test_two_generations_that_write_at_once_are_told_apart(root: LogRoot, logs: Path) -> None:
    old, new = root.open("web", 1), root.open("web", 2)
    for write, data in ((old, b"old 1\nold ha"), (new, b"new 1\n"), (old, b"lf\n"), (new, b"new 2\n")):
        os.write(write, data)
        root.flush()
    found = [(entry.generation, entry.line) for entry in logstore.tail(logs, ["web"], 10)]
    assert found == [(1, b"old 1"), (1, b"old ha"), (2, b"new 1"), (1, b"lf"), (2, b"new 2")]
    for write in (old, new):
        os.close(write)
    assert root.hear("eof", "web", 1)[3] == ["old 1", "old half"]
    assert root.hear("eof", "web", 2)[3] == ["new 1", "new 2"]


def test_events_become_lines_of_json_in_order(root: LogRoot, logs: Path) -> None:
    events = [{"event": "otpd.child.started", "name": "ü", "generation": number} for number in range(50)]
    for event in events:
        root.send("event", event["generation"] + 1, event)
    root.flush()
    assert stored_events(logs.parent) == [{**event, "life": 7, "seq": event["generation"] + 1} for event in events]


def test_events_are_rotated_and_the_newest_are_read_across_files(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), 1, max_bytes=200)
    for number in range(62):
        log.append(number + 1, {"number": number})
    assert sorted(os.listdir(tmp_path)) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"]
    kept = [event["number"] for event in stored_events(tmp_path)]
    assert kept == list(range(62 - len(kept), 62))
    assert len(kept) >= 15


def test_events_that_root_tells_again_are_not_stored_twice(tmp_path: Path) -> None:
    """The logger before may have been killed between storing them and saying so; rotation may have come between, too."""
    first = EventLog(str(tmp_path), 7, max_bytes=150)
    for number in range(1, 4):
        first.append(number, {"event": "x"})
    assert first.stored == 3
    second = EventLog(str(tmp_path), 7, max_bytes=150)
    assert second.stored == 3
    for number in range(2, 6):
        second.append(number, {"event": "x"})
    assert [event["seq"] for event in stored_events(tmp_path)] == [1, 2, 3, 4, 5]
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b"rubbish\n")
    assert EventLog(str(tmp_path), 7).stored == 5
    assert EventLog(str(tmp_path), 8).stored == 0, "another root counts from 1"


def test_root_hears_now_and_then_which_events_are_stored(root: LogRoot, logs: Path) -> None:
    for number in range(1, 251):
        root.send("event", number, {"event": "x"})
    root.flush()
    assert root.hear("stored") == ["stored", 100]
    assert root.hear("stored") == ["stored", 200]
    assert len(stored_events(logs.parent)) == 250


def test_a_broken_event_log_keeps_no_childs_log_from_recovering(root: LogRoot, logs: Path) -> None:
    (logs.parent / "events.jsonl").mkdir()
    root.send("event", 1, {"event": "waits"})
    assert "events.jsonl" in root.hear("full")[1]
    limit_file_size(root, 0)
    write = root.open("web")
    os.write(write, b"lost\n")
    eventually(lambda: _pipe_bytes(write) == 0, what="dropped")
    limit_file_size(root, resource.RLIM_INFINITY)
    eventually(lambda: [entry.dropped for entry in logstore.tail(logs, ["web"], 5)] == [5], what="the gap is marked")
    (logs.parent / "events.jsonl").rmdir()
    assert root.hear("recovered") == ["recovered", 5]
    assert stored_events(logs.parent) == [{"event": "waits", "life": 7, "seq": 1}]
    os.close(write)


def test_nonsense_on_the_channel_is_ignored_and_its_descriptors_are_closed(root: LogRoot) -> None:
    root.flush()
    before = root.fds()
    read, write = os.pipe2(os.O_CLOEXEC)
    for nonsense in (["open", "x"], ["who"], 7, {"a": 1}, ["policy", 1, 2, "maybe"]):
        root.channel.sendmsg([b"\xc1"])
        send_packet(root.channel, nonsense, (read,))
    os.close(read)
    os.close(write)
    root.flush()
    assert root.fds() == before


def test_everything_that_was_printed_is_stored_when_root_is_gone(logs: Path) -> None:
    with LogRoot(logs) as root:
        writes = [root.open(f"c{number}") for number in range(20)]
        root.flush()
        for write in writes:
            os.write(write, b"x" * 50_000)
        root.channel.close()
        assert root.process.wait(60) == 0
        for write in writes:
            os.close(write)
    assert [len(stored(logs, f"c{number}")) for number in range(20)] == [50_000] * 20


def test_signals_that_end_others_do_not_end_the_logger(root: LogRoot, logs: Path) -> None:
    root.flush()
    for number in (1, 2, 15):
        os.kill(root.pid, number)
    write = root.open("web")
    os.write(write, b"still here\n")
    root.flush()
    os.close(write)
    assert stored(logs, "web") == b"still here\n"


# --- kill -9 ---


@pytest.mark.parametrize(
    ("total", "blocks"),
    [
        pytest.param(100_000_000, (1, 3, 100, 5000), id="100 MB"),
        pytest.param(3_000_000, (1, 2, 3), id="small writes"),
        pytest.param(1 << 30, (1, 3, 100, 5000), id="1 GiB", marks=pytest.mark.soak),
    ],
)
def test_a_logger_killed_again_and_again_loses_and_doubles_no_byte(
    tmp_path: Path, logs: Path, total: int, blocks: tuple[int, ...]
) -> None:
    dice = random.Random(1)
    with LogRoot(logs, max_bytes=3_000_017) as root:
        write = root.open("web")
        digest = tmp_path / "digest"
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(total), str(digest), *map(str, blocks)], stdout=write
        ) as child:
            os.close(write)
            kills = 0
            while child.poll() is None:
                root.flush()
                time.sleep(dice.random() * 0.05)  # the random instant of the kill
                root.kill()
                root.start()
                kills += 1
        root.hear("eof", "web", 1)
        assert child.returncode == 0
        assert kills >= 4
        assert stored_digest(logs, "web") == digest.read_text()


def test_a_child_that_prints_while_there_is_no_logger_neither_dies_nor_loses_a_word(root: LogRoot, logs: Path) -> None:
    write = root.open("web")
    os.write(write, b"one\n")
    root.flush()
    root.kill()
    os.write(write, b"two\n")
    root.start()
    os.write(write, b"three\n")
    os.close(write)
    assert root.hear("eof")[3] == ["one", "two", "three"]
    assert stored(logs, "web") == b"one\ntwo\nthree\n"


# --- trouble ---


def limit_file_size(root: LogRoot, size: int) -> None:
    resource.prlimit(root.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_while_nothing_can_be_stored_output_is_dropped_counted_and_the_gap_marked(root: LogRoot, logs: Path) -> None:
    """T15: `log.full = "drop"`, the default."""
    write = root.open("web")
    os.write(write, b"before\n")
    root.flush()
    limit_file_size(root, 0)
    os.write(write, b"lost\n")
    reason = root.hear("full")[1]
    assert str(logs) in reason and "File too large" in reason
    for _ in range(100):
        os.write(write, b"x" * 9_999 + b"\n")
    root.send("tail", "web", 1)
    assert root.hear("tail")[3][-1].startswith("x")
    eventually(lambda: _pipe_bytes(write) == 0, what="the pipe is emptied")
    limit_file_size(root, resource.RLIM_INFINITY)
    assert root.hear("recovered") == ["recovered", 1_000_005]
    os.write(write, b"after\n")
    root.flush()
    os.close(write)
    assert [entry.text() for entry in logstore.tail(logs, ["web"], 5)] == [
        "before",
        "[otpd: 1000005 bytes dropped]",
        "after",
    ]
    assert stored(logs, "web") == b"before\nafter\n"
    root.hear("eof")
    assert root.received == []


def test_with_the_policy_block_children_wait_and_nothing_is_lost(logs: Path) -> None:
    """T15: `log.full = "block"`."""
    with LogRoot(logs, full="block") as root:
        write = root.open("web")
        root.flush()
        limit_file_size(root, 0)
        data = os.urandom(50_000)
        os.write(write, data)
        root.hear("full")
        root.flush()
        assert _pipe_bytes(write) == len(data)
        root.send("policy", 1 << 20, 5, "block")
        limit_file_size(root, resource.RLIM_INFINITY)
        assert root.hear("recovered") == ["recovered", 0]
        os.close(write)
        root.hear("eof")
        assert stored(logs, "web") == data


def test_trouble_costs_little_and_is_told_once_however_many_write(root: LogRoot) -> None:
    """T13: five that write as fast as they can into a full disk cost less than 2 % of a core; measured is 0.6 %."""
    writes = [root.open(f"c{number}") for number in range(30)]
    root.flush()
    limit_file_size(root, 0)
    with contextlib.ExitStack() as stack:
        for write in writes[:5]:
            child = stack.enter_context(subprocess.Popen(["yes"], stdout=write))
            stack.callback(child.kill)
        root.hear("full")
        used, began = root.cpu(), time.monotonic()
        while time.monotonic() - began < 1.5:
            root.pump(0.1)
        share = (root.cpu() - used) / (time.monotonic() - began)
    assert [message for message in root.received if message[0] == "full"] == []
    assert share < 0.02
    for write in writes:
        os.close(write)
    for number in range(30):
        root.hear("eof", f"c{number}", 1)
    limit_file_size(root, resource.RLIM_INFINITY)
    root.hear("recovered")
    eventually(lambda: root.fds() < 12, what="descriptors given back")


def test_a_smaller_limit_for_files_only_means_smaller_segments(root: LogRoot, logs: Path) -> None:
    write = root.open("web")
    root.flush()
    limit_file_size(root, 1000)
    os.write(write, b"0123456789" * 1000)
    root.flush()
    os.close(write)
    assert stored(logs, "web") == b"0123456789" * 1000
    root.hear("eof")
    assert root.received == []


def test_a_removed_log_directory_is_made_again(root: LogRoot, logs: Path) -> None:
    writes = {name: root.open(name) for name in ("a", "b")}
    for write in writes.values():
        os.write(write, b"gone\n")
    root.flush()
    subprocess.run(["rm", "-r", str(logs)], check=True)
    for write in writes.values():
        os.write(write, b"here\n")
    root.flush()
    assert "was removed" in root.hear("full")[1]
    assert root.hear("recovered") == ["recovered", 0]
    assert {name: stored(logs, name) for name in logstore.names(logs)} == {"a": b"here\n", "b": b"here\n"}
    for write in writes.values():
        os.close(write)
    root.hear("eof")
    root.hear("eof")
    assert root.received == []


def test_without_the_state_directory_output_is_dropped_until_it_is_back(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with LogRoot(state / "logs") as root:
        write = root.open("web")
        os.write(write, b"one\n")
        root.flush()
        subprocess.run(["rm", "-r", str(state)], check=True)
        os.write(write, b"lost\n")
        assert root.hear("full")[1].endswith("No such file or directory")
        root.send("event", 1, {"event": "waits"})
        root.flush()
        state.mkdir()
        assert root.hear("recovered") == ["recovered", 5]
        os.write(write, b"back\n")
        os.close(write)
        root.hear("eof")
        assert stored(state / "logs", "web") == b"back\n"
        assert stored_events(state) == [{"event": "waits", "life": 7, "seq": 1}]


@pytest.mark.parametrize("kind", ["fifo", "directory", "/dev/full", "shorter"])
def test_what_is_no_log_in_the_place_of_one_is_left_alone_and_a_new_segment_begun(
    root: LogRoot, logs: Path, kind: str
) -> None:
    write = root.open("web")
    os.write(write, b"1\n")
    root.flush()
    path = last_segment(logs, "web")
    root.kill()
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "shorter":
            path.touch()
        case _:
            path.symlink_to(kind)
    os.write(write, b"2\n")
    root.start()
    os.close(write)
    root.hear("eof")
    assert stored(logs, "web") == b"2\n"
    if kind != "shorter":
        assert str(path) in root.hear("full")[1]
        root.hear("recovered", 0)


def test_a_log_that_was_truncated_by_hand_goes_on_in_a_new_segment(root: LogRoot, logs: Path) -> None:
    write = root.open("web")
    os.write(write, b"first\n")
    root.flush()
    os.truncate(last_segment(logs, "web"), 0)
    os.write(write, b"second\n")
    root.flush()
    os.close(write)
    assert stored(logs, "web") == b"second\n"
    assert [entry.line for entry in logstore.tail(logs, ["web"], 5)] == [b"second"]


def test_a_file_in_the_place_of_a_childs_directory_is_trouble_for_that_child_alone(root: LogRoot, logs: Path) -> None:
    logs.mkdir()
    (logs / "bad").write_text("in the way")
    bad, good = root.open("bad"), root.open("good")
    os.write(bad, b"lost\n")
    os.write(good, b"kept\n")
    assert str(logs / "bad") in root.hear("full")[1]
    root.flush()
    assert stored(logs, "good") == b"kept\n"
    eventually(lambda: _pipe_bytes(bad) == 0, what="dropped")
    (logs / "bad").unlink()
    assert root.hear("recovered") == ["recovered", 5]
    os.close(bad)
    os.close(good)
    root.hear("eof", "bad", 1)
    assert (logs / "bad").is_dir()


#: Takes the super-user's right to go everywhere from the logger.
MORTAL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()


def test_a_directory_that_may_not_be_entered_is_trouble(logs: Path) -> None:
    with LogRoot(logs, prefix=MORTAL) as root:
        write = root.open("web")
        root.flush()
        logs.chmod(0)
        os.write(write, b"lost\n")
        assert root.hear("full")[1].endswith("Permission denied")
        eventually(lambda: _pipe_bytes(write) == 0, what="dropped")
        logs.chmod(0o700)
        assert root.hear("recovered") == ["recovered", 5]
        os.write(write, b"kept\n")
        os.close(write)
        root.hear("eof")
    assert [entry.text() for entry in logstore.tail(logs, ["web"], 5)] == ["[otpd: 5 bytes dropped]", "kept"]


def test_a_log_that_may_not_be_opened_is_left_alone_and_a_new_segment_begun(logs: Path) -> None:
    with LogRoot(logs, prefix=MORTAL) as root:
        write = root.open("web")
        os.write(write, b"1\n")
        root.flush()
        root.kill()
        last_segment(logs, "web").chmod(0)
        root.start()
        os.write(write, b"2\n")
        os.close(write)
        root.hear("eof")
        assert "Permission denied; a new one was begun" in root.hear("full")[1]
        assert root.hear("recovered") == ["recovered", 0]
    for segment in segments(str(logs / "web")):
        os.chmod(segment.log, 0o600)
    assert stored(logs, "web") == b"1\n2\n"


@pytest.mark.parametrize("full", ["drop", "block"])
def test_a_full_disk_of_1_MiB_stops_nobody_and_is_over_when_there_is_room(tmp_path: Path, full: str) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount (unshare -m)")
    mount = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@"'
    script = [sys.executable, "-c", f"import {__name__} as t; t.full_disk(t.Path({str(tmp_path)!r}), {full!r})"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok\n"


def full_disk(state: Path, full: str) -> None:
    """Runs in a mount namespace of its own, where `state` has 1 MiB."""
    (state / "ballast").write_bytes(b"\0" * 200_000)
    size = 2_000_000 if full == "drop" else 1_500_000
    data = random.Random(1).randbytes(size)
    with LogRoot(state / "logs", max_bytes=300_000, full=full) as root:
        write = root.open("web")
        with subprocess.Popen([sys.executable, "-c", RANDOM, str(size)], stdout=write) as child:
            os.close(write)
            assert root.hear("full")[1].endswith("No space left on device")
            if full == "drop":
                assert child.wait(60) == 0
                root.hear("eof")
                (state / "ballast").unlink()
                check_gap(state / "logs", data, root.hear("recovered")[1])
            else:
                check_blocked(root, state, data)
        assert child.wait(60) == 0
    print("ok")


def check_gap(logs: Path, data: bytes, dropped: int) -> None:
    """What was stored and what was dropped is all there was."""
    kept = stored(logs, "web")
    assert len(kept) + dropped == len(data)
    assert data.startswith(kept)
    assert [entry.dropped for entry in logstore.since(logs, ["web"], 0) if entry.dropped] == [dropped]


def check_blocked(root: LogRoot, state: Path, data: bytes) -> None:
    (state / "ballast").unlink()
    assert root.hear("recovered") == ["recovered", 0]
    root.hear("full")
    kept = stored(state / "logs", "web")
    assert data.startswith(kept)
    for segment in segments(str(state / "logs/web")):
        os.unlink(segment.log)
    assert root.hear("recovered") == ["recovered", 0]
    root.hear("eof")
    assert kept + stored(state / "logs", "web") == data


# --- bounds ---


def test_a_line_of_64_MiB_costs_no_memory(root: LogRoot, logs: Path) -> None:
    """T14, test 58."""
    write = root.open("web")
    os.write(write, b"a\n")
    root.flush()
    before = root.peak_rss()
    subprocess.run(["head", "-c", str(64 << 20), "/dev/zero"], stdout=write, check=True)
    os.write(write, b"\nlast\n")
    os.close(write)
    assert root.hear("eof")[3][-1] == "last"
    assert root.peak_rss() - before < 4 << 20
    lines = [(len(entry.line), entry.more) for entry in logstore.tail(logs, ["web"], 5)]
    assert lines == [(1, 0), (logstore.LINE_LIMIT, (64 << 20) - logstore.LINE_LIMIT), (4, 0)]


def test_a_flood_does_not_keep_others_waiting(root: LogRoot, logs: Path) -> None:
    flood, quiet = root.open("flood"), root.open("quiet")
    with subprocess.Popen(["yes"], stdout=flood) as child:
        os.close(flood)
        eventually(lambda: len(segments(str(logs / "flood"))) > 2, what="the flood runs")
        os.write(quiet, b"hello\n")
        eventually(lambda: stored(logs, "quiet") == b"hello\n", 1.0)
        child.kill()
    os.close(quiet)
    assert set(root.hear("eof", "flood")[3]) <= {"y", ""}


def test_more_children_than_open_logs_are_served_within_the_limit_of_descriptors(logs: Path) -> None:
    with LogRoot(logs, prefix=("prlimit", "--nofile=200")) as root:
        writes = [root.open(f"c{number}") for number in range(140)]
        for turn in range(3):
            for write in writes:
                os.write(write, b"%d\n" % turn)
            root.flush()
        assert root.fds() <= 200
        assert [stored(logs, f"c{number}") for number in range(140)] == [b"0\n1\n2\n"] * 140
        for write in writes:
            os.close(write)
        for number in range(140):
            assert root.hear("eof", f"c{number}", 1)[3] == ["0", "1", "2"]
        assert root.received == []


def test_a_pipe_that_could_not_be_taken_is_refused_and_may_be_sent_again(logs: Path) -> None:
    with LogRoot(logs, prefix=("prlimit", "--nofile=40")) as root:
        writes = [root.open(f"c{number}") for number in range(40)]
        _, name, generation = root.hear("refused")
        for number in range(10):
            os.close(writes[number])
            root.hear("eof", f"c{number}", 1)
        send_packet(root.channel, ["open", name, generation], (root.pipes[name, generation],))
        os.write(writes[int(name[1:])], b"hello\n")
        root.flush()
        assert stored(logs, name) == b"hello\n"
        for write in writes[10:]:
            os.close(write)


def test_a_thousand_incarnations_leave_no_descriptor_behind(root: LogRoot) -> None:
    root.flush()
    before = root.fds()
    for generation in range(1, 1001):
        write = root.open("web", generation)
        os.write(write, b"x\n")
        os.close(write)
        root.hear("eof", "web", generation)
    root.flush()
    assert root.fds() == before
    assert root.pipes == {}


def test_an_idle_logger_uses_no_cpu_also_when_a_child_closed_its_output_early(root: LogRoot) -> None:
    os.close(root.open("closed"))
    held = root.open("held")
    root.hear("eof", "closed", 1)
    root.send("exited", "closed", 1)
    root.flush()
    before = root.cpu()
    root.pump(0.5)
    assert root.cpu() - before <= 0.01
    os.close(held)


def _pipe_bytes(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
