"""How services follow root's journal: the control socket and the disk together miss nothing and give nothing twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from otpd.agents import testing
from otpd.agents.services.asking import ask
from otpd.agents.services.errors import service
from otpd.agents.services.errors.service import Errors
from otpd.agents.services.feed import Feed
from otpd.agents.services.journal import Cursor, Reader
from otpd.ipc.control import ControlError
from otpd.ipc.frames import REQUEST_LIMIT, FrameReader, pack_frame

Serve = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


def event(seq: int, life: int = 1, **more: Any) -> dict[str, Any]:
    return {"at": float(seq), "event": "otpd.x", "name": "a", "path": "a", "generation": 1, "life": life, "seq": seq, **more}


def death(seq: int, reason: str) -> dict[str, Any]:
    return event(seq, event="otpd.child.death", reason=reason, asked_by=None)


def write(state: Path, *events: dict[str, Any]) -> None:
    with open(state / "events.jsonl", "a") as file:
        file.writelines(json.dumps(each) + "\n" for each in events)


@asynccontextmanager
async def root(path: Path, serve: Serve) -> AsyncIterator[str]:
    """A control socket; `serve` answers each request and may hang up."""

    connections: list[asyncio.StreamWriter] = []

    async def connected(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        connections.append(outgoing)
        frames = FrameReader(REQUEST_LIMIT)
        while chunk := await incoming.read(1 << 16):
            for request in frames.feed(chunk):
                await serve(request, outgoing)
        outgoing.close()

    server = await asyncio.start_unix_server(connected, path / "control.sock")
    try:
        yield str(path / "control.sock")
    finally:
        server.close()
        await server.wait_closed()
        for each in connections:
            each.close()
            with suppress(OSError):
                await each.wait_closed()


def tell(outgoing: asyncio.StreamWriter, *events: dict[str, Any]) -> None:
    for each in events:
        outgoing.write(pack_frame({"event": each}))


async def first(feed: Feed, count: int) -> list[int]:
    found: list[int] = []
    async with aclosing(aiter(feed)) as following:
        async for events in following:
            found += [each["seq"] for each in events]
            if len(found) >= count:
                break
    return found


def test_what_is_on_disk_what_is_about_to_be_and_what_root_still_has_come_once_and_in_order(tmp_path: Path) -> None:
    async def serve(request: dict[str, Any], outgoing: asyncio.StreamWriter) -> None:
        assert (request["op"], request["follow"]) == ("events", True)
        tell(outgoing, event(5), event(6))
        await asyncio.sleep(0.05)
        write(tmp_path, event(4), event(5))  # the logger is late
        tell(outgoing, event(7))

    async def talk() -> tuple[list[int], Reader]:
        reader = Reader(Cursor(1, 1))
        write(tmp_path, event(1), event(2), event(3))
        async with root(tmp_path, serve) as control:
            return await first(Feed(str(tmp_path), control, reader), 6), reader

    found, reader = asyncio.run(talk())
    assert found == [2, 3, 4, 5, 6, 7]
    assert (reader.cursor, reader.missed) == (Cursor(1, 7), 0)


def test_when_root_hangs_up_the_disk_tells_what_came_meanwhile_and_then_root_again(tmp_path: Path) -> None:
    lives = iter(((event(1), event(2)), (event(4), event(1, life=2))))

    async def serve(_request: dict[str, Any], outgoing: asyncio.StreamWriter) -> None:
        tell(outgoing, *next(lives, ()))
        await outgoing.drain()
        outgoing.close()
        write(tmp_path, event(3))

    async def talk() -> list[int]:
        async with root(tmp_path, serve) as control:
            return await first(Feed(str(tmp_path), control, Reader(Cursor(1, 0))), 5)

    assert asyncio.run(talk()) == [1, 2, 3, 4, 1]


def test_a_question_to_root_is_answered_refused_or_fails(tmp_path: Path) -> None:
    async def serve(request: dict[str, Any], outgoing: asyncio.StreamWriter) -> None:
        if request["op"] == "node":
            outgoing.write(pack_frame({"ok": True, "result": {"name": "shop"}}))
        elif request["op"] == "stats":
            outgoing.write(pack_frame({"ok": False, "code": 3, "error": "there is no broker now"}))
        else:
            outgoing.close()

    async def talk() -> Any:
        async with root(tmp_path, serve) as control:
            answer = await ask(control, "node")
            with pytest.raises(ControlError, match="no broker"):
                await ask(control, "stats")
            with pytest.raises(ConnectionError):
                await ask(control, "tree")
            return answer

    assert asyncio.run(talk()) == {"name": "shop"}


def test_a_disk_that_takes_the_first_bytes_and_no_more_is_told_once_and_not_each_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setenv("OTPD_CONTROL", str(tmp_path / "nobody"))
    write(tmp_path, death(1, "error(a)"))

    async def live() -> list[str]:
        with monkeypatch.context() as disk:
            disk.setattr(service, "absorb", full)
            async with testing.run(Errors, state_dir=str(tmp_path)) as errors:
                await asyncio.sleep(60)
                disk.undo()
                await asyncio.sleep(10)
                return [kind for kind, _, _ in errors.notes]

    assert asyncio.run(live()) == ["stalled", "resumed"]


def test_a_store_that_cannot_write_says_so_once_lives_on_and_has_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTPD_CONTROL", str(tmp_path / "nobody"))
    (tmp_path / "errors.db").mkdir()  # as good as a disk that takes nothing
    write(tmp_path, death(1, "error(a)"), death(2, "error(b)"))

    async def live() -> tuple[Any, ...]:
        async with testing.run(Errors, state_dir=str(tmp_path)) as errors:
            await asyncio.sleep(5)
            stalled, notes = await errors.call("status"), list(errors.notes)
            (tmp_path / "errors.db").rmdir()
            await asyncio.sleep(5)
            write(tmp_path, death(3, "error(c)"))
            await asyncio.sleep(5)
            rows = await errors.call("records")
            return stalled, notes, rows, errors.notes[-1][0], await errors.call("status")

    stalled, notes, rows, last, status = asyncio.run(live())
    assert "unable to open" in stalled["stalled"]
    assert [kind for kind, _, _ in notes] == ["stalled"]
    assert [row["summary"] for row in rows] == ["error(c)", "error(b)", "error(a)"]
    assert (last, status) == ("resumed", {"life": 1, "seq": 3, "stalled": None})
