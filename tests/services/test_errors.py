"""The error store without a process: what is an error, which are the same, what is kept, and that nothing counts twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from otpd.agents import testing
from otpd.agents.services.errors import schema
from otpd.agents.services.errors.database import FILE, Database, Limits, Unusable, set_aside
from otpd.agents.services.errors.fingerprint import fingerprint, raised
from otpd.agents.services.errors.records import KINDS, Lines, Machine, Record
from otpd.agents.services.errors.service import Errors
from otpd.agents.services.errors.view import absorb, look
from otpd.agents.services.journal import Cursor, Event, Reader, unread
from otpd.agents.services.sqlite import passes
from otpd.supervisor.journal import as_specified
from tests.agents.scenes import scene

TRACE = """Traceback (most recent call last):
  File "/srv/feed.py", line 12, in poll
    price = self.parse(line)
            ^^^^^^^^^^^^^^^^
  File "/srv/feed.py", line {line}, in parse
    return float(text)
ValueError: could not convert string to float: '{text}'
"""


class Log:
    """Numbers events as root does."""

    def __init__(self, life: int = 1) -> None:
        self.life, self.seq = life, 0

    def event(self, what: str, name: str = "feed", **data: Any) -> Event:
        self.seq += 1
        own = {"at": 1000.0 + self.seq, "event": f"otpd.{what}", "name": name, "path": name, "generation": 1}
        return {**own, **data, "life": self.life, "seq": self.seq}

    def death(self, reason: str, asked_by: str | None = None, **data: Any) -> Event:
        return self.event("child.death", reason=reason, asked_by=asked_by, **data)


def take(database: Database, events: list[Event]) -> int:
    return absorb(database, Machine(), events)


def kind_of(event: Event) -> str | None:
    found = Machine().take(event)
    return found.kind if isinstance(found, Record) else None


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(str(tmp_path / FILE))
    yield made
    made.close()


# --- what is an error ---


@pytest.mark.parametrize(
    ("reason", "asked_by", "kind"),
    [
        ("error(1)", None, "crash"),
        ("killed", None, "crash"),
        ("not ready within 10 s", None, "crash"),
        ("normal", None, "end"),
        ("shutdown", "operator", "end"),
        ("shutdown: done", None, "end"),
        ("killed", "its supervisor", "unclean_stop"),
        ("error(health: tcp: refused)", "health", "crash"),
        ("linked(other, killed)", "a link", "crash"),
    ],
)
def test_an_end_is_a_crash_unless_it_was_clean_or_asked_for(reason: str, asked_by: str | None, kind: str) -> None:
    assert kind_of(Log().death(reason, asked_by)) == kind


def test_a_kill_that_its_spec_wants_is_an_end_as_asked_unless_nobody_asked() -> None:
    brutally = as_specified("brutal_kill", "killed", "its supervisor")
    assert kind_of(Log().death("killed", "its supervisor", cause=brutally)) == "end"
    assert kind_of(Log().death("killed", "health", cause=brutally)) == "crash"


@pytest.mark.parametrize(
    ("what", "data", "kind"),
    [
        ("supervisor.gave_up", {"child": "feed", "max_restarts": 3}, "gave_up"),
        ("broker.dead_letters", {"noproc": 3}, "dead_letter"),
        ("store.letter.dead", {"attempts": 5}, "dead_letter"),
        ("broker.breaker.opened", {"failures": 5}, "breaker"),
        ("broker.breaker.closed", {"failures": 0}, None),
        ("scheduler.skipped", {"schedule": "poll", "why": "overlap"}, "skipped"),
        ("health.unhealthy", {"reason": "tcp: refused"}, "alert"),
        ("health.healthy", {}, None),
        ("alert.raised", {"value": 0.98, "limit": 0.9}, "alert"),
        ("alert.cleared", {"value": 0.5}, None),
        ("store.quarantined", {"file": "store.db"}, "storage"),
        ("log.full", {"reason": "No space left on device"}, "storage"),
        ("helper.exited", {"detail": "zygote: status -9"}, "helper"),
        ("broker.suppressed", {"count": 7}, "suppressed"),
        ("child.started", {}, None),
        ("child.exited", {"reason": "killed"}, None),
    ],
)
def test_which_other_events_are_errors(what: str, data: dict[str, Any], kind: str | None) -> None:
    assert kind_of(Log().event(what, **data)) == kind
    assert kind is None or kind in KINDS


def test_a_root_that_ended_without_an_order_is_an_error_and_one_that_was_stopped_is_none() -> None:
    machine = Machine()
    assert machine.take(Log(1).event("node.starting", "shop")) is None
    died = machine.take(Log(2).event("node.starting", "shop"))
    assert isinstance(died, Record)
    assert (died.kind, died.name, died.summary) == (
        "root_died", "shop", "root ended without an order (life 1); every child ended with it",
    )  # fmt: skip
    assert machine.take(Log(2).event("node.ended", "shop")) is None
    assert machine.take(Log(3).event("node.starting", "shop")) is None
    assert machine.alive == 3


def test_the_weight_of_dead_letters_is_their_number() -> None:
    found = Machine().take(Log().event("broker.dead_letters", "orders", noproc=3, expired=4))
    assert isinstance(found, Record)
    assert (found.weight, found.summary) == (7, "broker.dead_letters: noproc=3 expired=4")
    single = Machine().take(Log().event("store.letter.dead", "orders", attempts=5, reason="crashed"))
    assert isinstance(single, Record)
    assert single.weight == 1


# --- which are the same ---


def test_a_traceback_is_read_from_its_last_exception() -> None:
    chained = TRACE.format(line=1, text="x") + "\nDuring handling of the above exception, another exception occurred:\n\n"
    found = raised(chained + TRACE.format(line=20, text="y"))
    assert found is not None
    assert (found.type, found.text, [frame.function for frame in found.frames], found.frames[-1].line) == (
        "ValueError", "could not convert string to float: 'y'", ["poll", "parse"], 20,
    )  # fmt: skip
    assert raised("ValueError: without frames") is None
    assert raised("") is None


def test_line_numbers_and_values_do_not_make_another_error_but_the_way_does() -> None:
    def of(trace: str, name: str = "feed") -> str:
        return fingerprint("crash", name, "error(ValueError)", trace)

    first = of(TRACE.format(line=20, text="12,5"))
    assert first == of(TRACE.format(line=31, text="n/a"))
    assert first != of(TRACE.format(line=20, text="12,5").replace("in parse", "in parse_header"))
    assert first != of(TRACE.format(line=20, text="12,5").replace("ValueError", "KeyError"))
    assert first != of(TRACE.format(line=20, text="12,5"), "other")
    assert fingerprint("crash", "a", "signal(11)") == fingerprint("crash", "a", "signal(6)")
    assert fingerprint("crash", "a", "killed") != fingerprint("crash", "a", "error(1)")


# --- what is kept ---


def test_a_death_is_kept_whole_with_the_lines_that_come_after_it(database: Database) -> None:
    log = Log()
    used = {"cpu_user_s": 0.5, "max_memory": 10_000_000}
    death = log.death("error(ValueError: bad)", traceback=TRACE.format(line=20, text="x"), resources=used, signal=None)
    lines = log.event("child.last_lines", lines=["polling", "bye"], stacks=False)
    assert take(database, [death, lines]) == 2
    (found,) = database.records()
    assert (found["name"], found["detail"]["reason"], found["lines"]) == (
        "feed", "error(ValueError: bad)", ["polling", "bye"],
    )  # fmt: skip
    assert (found["detail"]["exception"], found["detail"]["where"]) == ("ValueError", "/srv/feed.py:20 in parse")
    assert found["detail"]["resources"] == used
    assert database.show(str(found["id"])) == database.show(found["fingerprint"][:5]) == found
    assert database.show("999") is None


def test_programs_are_grouped_by_the_traceback_that_they_print(database: Database) -> None:
    log = Log()
    events = []
    for line, text in ((20, "12,5"), (21, "n/a")):
        trace = TRACE.format(line=line, text=text).splitlines()
        events += [log.death("error(1)"), log.event("child.last_lines", lines=["polling", *trace])]
    take(database, [*events, log.death("error(1)")])
    latest, first = database.groups()
    assert [(each["summary"], each["count"], each["last_seen"]) for each in (latest, first)] == [
        ("error(1)", 1, 1005.0),
        ("error(1): ValueError: could not convert string to float: 'n/a'", 2, 1003.0),
    ]
    found = database.show(first["fingerprint"])
    assert found is not None
    assert (found["detail"]["exception"], found["detail"]["where"]) == ("ValueError", "/srv/feed.py:21 in parse")


@pytest.mark.parametrize("reason", ["killed", "signal(11)", "error(memory: its processes use 458MiB)", "error(7: 3)"])
def test_a_traceback_that_it_printed_and_survived_is_not_why_it_ended(database: Database, reason: str) -> None:
    log = Log()
    trace = ["WARNING durable cast failed", *TRACE.format(line=20, text="12,5").splitlines()]
    take(database, [log.death(reason), log.event("child.last_lines", lines=trace), log.death(reason)])
    (group,) = database.groups()
    assert (group["summary"], group["count"]) == (reason, 2)
    (_, first) = database.records()
    assert ("exception" in first["detail"], first["lines"]) == (False, trace)


def test_errors_of_one_kind_are_one_group_with_its_first_and_last_time(database: Database) -> None:
    log = Log()
    letters = log.event("broker.dead_letters", "feed", noproc=5)
    events = [letters, log.death("error(1)"), log.death("error(2)"), log.death("normal")]
    take(database, events)
    groups = {row["kind"]: (row["count"], row["first_seen"], row["last_seen"]) for row in database.groups()}
    assert groups == {"crash": (2, 1002.0, 1003.0), "dead_letter": (5, 1001.0, 1001.0)}
    assert [row["kind"] for row in database.groups(kinds=["end"])] == ["end"]
    assert database.groups(["nobody"]) == []
    assert [row["count"] for row in database.groups(since=1003.0)] == [2]


def test_what_is_read_twice_counts_once_also_over_a_restart(tmp_path: Path) -> None:
    log = Log()
    events = [log.death("error(1)") for _ in range(3)]
    for taken in (events[:2], events, events):
        database = Database.open(str(tmp_path / FILE))
        cursor, alive = database.progress()
        absorb(database, Machine(alive), Reader(cursor).new(taken))
        assert database.progress()[0] == (1, taken[-1]["seq"])
        database.close()
    database = Database.open(str(tmp_path / FILE))
    assert [row["count"] for row in database.groups()] == [3]
    database.close()


def test_a_batch_is_stored_whole_or_not_at_all(database: Database) -> None:
    log = Log()
    bad = Record("crash", 1.0, "a", "a", 1, 1, 2, "x", "f", detail={})
    object.__setattr__(bad, "at", object())  # what SQLite refuses, in the middle of a batch
    good = Machine().take(log.death("error(1)"))
    assert isinstance(good, Record)
    with pytest.raises(sqlite3.Error):
        database.apply([good, bad], Cursor(1, 2), 0)
    assert (database.groups(), database.progress()) == ([], (Cursor(0, 0), 0))


def test_the_store_is_bounded_by_count_age_and_per_group_and_counts_go_on(database: Database) -> None:
    log = Log()
    events = [log.death(f"error({word})") for word in ("a", "b", "c") for _ in range(10)]
    take(database, events)
    assert database.prune(Limits(records=100, per_group=4, groups=100, age=1e6), now=1030.0) == 18
    assert [row["count"] for row in database.groups()] == [10, 10, 10]
    assert database.prune(Limits(records=5, per_group=4, groups=100, age=1e6), now=1030.0) == 7
    assert [row["detail"]["reason"] for row in database.records()] == ["error(c)"] * 4 + ["error(b)"]
    assert database.prune(Limits(records=5, per_group=4, groups=1, age=1e6), now=1030.0) == 1
    assert [row["summary"] for row in database.groups()] == ["error(c)"]
    assert database.prune(Limits(age=10.0), now=2000.0) == 4
    assert (database.groups(), database.records()) == ([], [])


# --- the file ---


def test_a_damaged_file_and_one_of_the_future_are_named_and_set_aside(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(Unusable, match="damaged"):
        Database.open(str(path))
    assert set_aside(str(path)) == tmp_path / f"{FILE}.unusable-1"
    Database.open(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for way in (Database.open, Database.look):
        with pytest.raises(Unusable, match="newer otpd"):
            way(str(path))
    assert set_aside(str(path)) == tmp_path / f"{FILE}.unusable-2"


def damaged(path: Path, change: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()


def test_a_damaged_row_is_left_out_and_counted_and_the_service_forgets_it(database: Database, tmp_path: Path) -> None:
    log = Log()
    take(database, [log.death("error(a)"), log.death("error(b)"), log.event("child.last_lines", lines=["bye"])])
    damaged(tmp_path / FILE, "UPDATE records SET detail = CAST(x'fb' AS TEXT) WHERE summary = 'error(a)'")
    for way, kept, forgotten in ((Database.look, 1, 0), (Database.open, 0, 1), (Database.open, 0, 0)):
        with closing(way(str(tmp_path / FILE))) as store:
            assert [(row["summary"], row["lines"]) for row in store.records()] == [("error(b)", ["bye"])]
            assert [row["summary"] for row in store.groups()] == ["error(b)", "error(a)"], "how often is still true"
            assert (store.damaged(), store.forgotten) == (kept, forgotten)


def test_a_group_whose_row_is_damaged_is_counted_anew_from_its_records(database: Database, tmp_path: Path) -> None:
    log = Log()
    take(database, [log.death("error(1)", name=f"feed-{n}", group="feed") for n in (1, 2, 2)])
    damaged(tmp_path / FILE, "UPDATE groups SET count = 1000")
    damaged(tmp_path / FILE, "UPDATE instances SET count = 1000 WHERE name = 'feed-2'")
    with closing(Database.look(str(tmp_path / FILE))) as store:
        assert (store.groups(), store.damaged()) == ([], 2)
    with closing(Database.open(str(tmp_path / FILE))) as store:
        (group,) = store.groups()
        assert (group["count"], group["first_seen"], group["last_seen"]) == (3, 1001.0, 1003.0)
        assert group["instances"] == {"feed-2": 2, "feed-1": 1}


def test_last_lines_of_a_death_whose_record_is_damaged_do_not_make_it_look_well(database: Database, tmp_path: Path) -> None:
    log = Log()
    take(database, [log.death("error(a)")])
    damaged(tmp_path / FILE, "UPDATE records SET summary = 'error(b)'")
    take(database, [log.event("child.last_lines", lines=["bye"])])
    assert (database.records(), database.damaged()) == ([], 1)


def all_of(store: Database) -> set[str]:
    groups = [{**each, "latest": None, "instances": None} for each in store.groups()]
    return {json.dumps(each, sort_keys=True) for each in (*groups, *store.records())}


def test_whatever_bit_of_the_file_is_flipped_what_is_shown_is_true_and_what_is_missing_is_told(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / FILE
    with closing(Database.open(str(path))) as store:
        for number in range(6):
            lines = log.event("child.last_lines", lines=["bye", str(number)], generation=number)
            instance = log.death("error(9)", name=f"x-{number % 2}", group="x")
            take(store, [log.death(f"error({'abc'[number % 3]})", generation=number), lines, instance])
        truth = all_of(store)
    whole, outcomes = path.read_bytes(), set[str]()
    for at in range(3, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            with closing(look(str(tmp_path))) as store:
                shown, told = all_of(store), store.damaged()
        except (Unusable, sqlite3.Error):
            outcomes.add("refused")
            continue
        assert shown <= truth, at
        assert told or shown == truth, at
        outcomes.add("left out" if told else "whole")
    assert outcomes == {"refused", "left out", "whole"}


def test_a_file_that_says_that_it_is_empty_and_is_not_is_no_empty_one(database: Database, tmp_path: Path) -> None:
    take(database, [Log().death("error(a)")])
    damaged(tmp_path / FILE, "PRAGMA user_version = 0")
    for way in (Database.open, Database.look):
        with pytest.raises(Unusable, match="says that it is empty"):
            way(str(tmp_path / FILE))


def before_checksums(path: Path) -> None:
    """The file as the first version has left it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema._SCRIPTS[0])
        db.execute("INSERT INTO groups VALUES ('abc', 'crash', 'feed', 'error(1)', 1.0, 2.0, 7)")
        row = (3, "abc", "crash", 2.0, "feed", "feed", 4, 1, 9, "error(1)", 1, '{"reason": "error(1)"}', '["bye"]')
        db.execute(f"INSERT INTO records VALUES ({', '.join('?' * 13)})", row)
        db.execute("UPDATE progress SET life = 1, seq = 9")
        db.execute("PRAGMA user_version = 1")


def test_a_file_without_checksums_is_read_as_it_is_and_gets_them(tmp_path: Path) -> None:
    before_checksums(tmp_path / FILE)
    group = {
        "fingerprint": "abc", "kind": "crash", "name": "feed", "summary": "error(1)", "first_seen": 1.0, "last_seen": 2.0,
        "count": 7, "latest": 3, "instances": {},
    }  # fmt: skip
    for way, version in ((Database.look, 1), (Database.open, 2), (Database.look, 2)):
        with closing(way(str(tmp_path / FILE))) as store:
            assert (store.groups(), store.damaged(), store.progress()) == ([group], 0, (Cursor(1, 9), 0))
            assert [(row["id"], row["lines"], row["instance_of"]) for row in store.records()] == [(3, ["bye"], "")]
        with closing(sqlite3.connect(tmp_path / FILE)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (version,), way
    with closing(Database.open(str(tmp_path / FILE))) as store:
        take(store, [Log(2).death("error(1)")])
        assert [row["id"] for row in store.records()] == [4, 3]


# --- instances of a group ---


def test_what_happens_to_any_instance_of_a_group_is_one_error_with_the_count_of_each(database: Database) -> None:
    log = Log()
    trace = TRACE.format(line=1, text="x").splitlines()
    take(database, [
        *(log.death("error(1)", name=f"feed-{number}", group="feed") for number in (1, 2, 2)),
        log.event("child.last_lines", name="feed-2", lines=trace),
        log.death("error(1)", name="other"),
    ])  # fmt: skip
    plain_, with_trace = sorted(database.groups(["feed"]), key=lambda group: -group["count"])
    assert (with_trace["name"], with_trace["count"], with_trace["instances"]) == ("feed", 1, {"feed-2": 1})
    assert (plain_["name"], plain_["count"], plain_["instances"]) == ("feed", 2, {"feed-1": 1, "feed-2": 1})
    assert [group["instances"] for group in database.groups(["feed-1"])] == [{"feed-1": 1, "feed-2": 1}]
    assert [(row["name"], row["instance_of"]) for row in database.records(["feed"])] == [
        ("feed-2", "feed"), ("feed-2", "feed"), ("feed-1", "feed"),
    ]  # fmt: skip
    assert [row["name"] for row in database.records(["feed-1"])] == ["feed-1"]
    assert [group["instances"] for group in database.groups(["other"])] == [{}]


@pytest.mark.parametrize("change", ["DELETE FROM progress", "UPDATE progress SET seq = 'x'"])
def test_a_file_that_does_not_say_how_far_the_journal_was_read_is_damaged(
    database: Database, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(tmp_path / FILE, change)
    opened: list[Database] = []
    monkeypatch.setattr(Database, "look", lambda path, look=Database.look: opened.append(look(path)) or opened[0])
    with pytest.raises(Unusable, match="how far the journal was read"):
        look(str(tmp_path))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].progress()


def test_only_what_may_go_well_another_time_passes() -> None:
    def passing(code: int | None) -> bool:
        error = sqlite3.OperationalError("it did not work")
        if code is not None:
            error.sqlite_errorcode = code
        return passes(error)

    passing_codes = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_FSYNC)
    assert [passing(code) for code in passing_codes] == [True] * 4
    assert [passing(code) for code in (None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT)] == [False] * 3


@scene
async def test_the_service_sets_a_file_aside_of_which_a_part_is_gone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = asyncio.Event()

    async def follow(_self: Errors, _database: Database) -> None:
        following.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Errors, "_follow", follow)
    take(database, [Log().death("error(a)")])
    database.close()
    damaged(tmp_path / FILE, "DROP TABLE records")
    async with testing.run(Errors, state_dir=str(tmp_path)) as errors:
        await asyncio.wait_for(following.wait(), 60)
        assert await errors.call("groups") == []
        assert (await errors.call("status"))["stalled"] is None
        ((kind, _, data),) = errors.notes
    assert (kind, data["why"]) == ("quarantined", "it is damaged: no such table: records")
    assert (tmp_path / f"{FILE}.unusable-1").exists()


def test_the_file_is_for_its_owner_alone(database: Database, tmp_path: Path) -> None:
    take(database, [Log().death("error(1)")])
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.glob("errors.db*")}
    assert modes == {"errors.db": "0o600", "errors.db-wal": "0o600", "errors.db-shm": "0o600"}


def test_who_looks_sees_also_what_the_service_has_not_read_and_changes_nothing(tmp_path: Path) -> None:
    def seen() -> list[str]:
        with closing(look(str(tmp_path))) as store:
            return [row["summary"] for row in store.records()]

    log = Log()
    events = [log.death("error(a)"), log.death("error(b)"), log.death("error(c)")]
    journal = tmp_path / "events.jsonl"
    journal.with_name("events.jsonl.1").write_text(json.dumps(events[0]) + "\n")
    journal.write_text(json.dumps(events[1]) + "\nhalf a li\n" + json.dumps(events[2]) + "\n{")
    assert seen() == ["error(c)", "error(b)", "error(a)"]
    database = Database.open(str(tmp_path / FILE))
    take(database, events[:2])
    before = database.progress()
    assert seen() == ["error(c)", "error(b)", "error(a)"]
    assert database.progress() == before
    database.close()


# --- the journal ---


def test_what_is_unread_begins_after_the_cursor_over_all_parts_and_lives(tmp_path: Path) -> None:
    old, new = Log(3), Log(4)
    parts = [[old.event("a"), old.event("b")], [old.event("c"), new.event("d")], [new.event("e")]]
    for number, part in zip((2, 1, 0), parts, strict=True):
        text = "".join(json.dumps(event) + "\n" for event in part)
        (tmp_path / ("events.jsonl" + (f".{number}" if number else ""))).write_text(text)

    def words(cursor: Cursor) -> str:
        return "".join(event["event"].removeprefix("otpd.") for event in unread(str(tmp_path), cursor))

    assert words(Cursor()) == "abcde"
    assert [words(Cursor(3, seq)) for seq in (1, 2, 3, 9)] == ["bcde", "cde", "de", "de"]
    assert [words(Cursor(4, seq)) for seq in (0, 1, 2)] == ["de", "e", ""]


def test_a_reader_takes_each_event_once_and_counts_those_that_never_came() -> None:
    log = Log()
    events = [log.event(word) for word in "abcdef"]
    reader = Reader(Cursor())
    assert reader.new(events[:2] + events[:2]) == events[:2]
    assert (reader.follows(events[2]), reader.follows(events[3]), reader.follows(events[0])) == (True, False, True)
    assert reader.new([events[4], events[3]]) == [events[4]]
    assert (reader.cursor, reader.missed) == (Cursor(1, 5), 2)
    assert reader.new([Log(2).event("of the next life")])[0]["life"] == 2
    assert (reader.cursor, reader.missed) == (Cursor(2, 1), 2)
    assert reader.new([{"at": 1.0, "event": "otpd.log.events_lost", "count": 3}])[0]["count"] == 3


def test_lines_without_a_death_are_passed_over(database: Database) -> None:
    database.apply([Lines("feed", 1, 1, ("bye",))], Cursor(1, 1), 0)
    assert database.records() == []
