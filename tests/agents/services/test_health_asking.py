"""Questions over the network and by commands: what each answer is taken for, and that nothing is left of any."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from otpd.agents.services.health import asking
from otpd.agents.services.health.commands import Command, user_of
from otpd.agents.services.health.probes import Verdict
from otpd.agents.services.health.threads import Lookups
from tests.agents.scenes import scene
from tests.helpers import eventually


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """A port that says `answer` to everybody, once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()


def names() -> Lookups[str]:
    return Lookups(asking.address_of)


# --- http and tcp ---


@pytest.mark.parametrize(
    ("answer", "passed", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.0 302 Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 204\r\n\r\n", True, ""),
        (b"HTTP/1.1 400 Bad\r\n\r\n", False, "status 400"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False, "status 503"),
        (b"SSH-2.0-x\r\n", False, "expected a status line of HTTP, got b'SSH-2.0-x\\r\\n'"),
        (b"", False, "expected a status line of HTTP, got b''"),
        (b"x" * 10_000, False, f"expected a status line of HTTP, got b'{'x' * 40}'"),
    ],
)
def test_an_http_answer_is_its_status_line(answer: bytes, passed: bool, why: str) -> None:
    @scene
    async def ask() -> None:
        with server(answer) as port:
            url = f"http://localhost:{port}/well?x=1"
            assert await asking.http(names(), url) == Verdict(passed, f"{url}: {why}" if why else "")

    ask()


@scene
async def test_a_port_that_takes_no_connection_is_an_answer_and_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert asking.tcp_at_once("127.0.0.1", port) == await asking.tcp(names(), "localhost", port) == Verdict(True)
    refused = Verdict(False, f"127.0.0.1:{port}: Connection refused")
    assert asking.tcp_at_once("127.0.0.1", port) == refused
    with pytest.raises(OSError) as error:
        await asking.tcp(names(), "127.0.0.1", port)
    assert asking.failed(error.value) == refused
    assert asking.tcp_at_once("192.0.2.1", 80) is None, "another host is waited for"


def test_what_this_process_lacks_says_nothing_about_a_child_and_everything_else_does() -> None:
    assert asking.failed(OSError(errno.EMFILE, "x")).passed is None
    assert asking.failed(ConnectionResetError(errno.ECONNRESET, "reset by peer")) == Verdict(False, "reset by peer")
    assert asking.failed(ValueError("a\n b")) == Verdict(False, "a b")
    assert asking.failed(RuntimeError()) == Verdict(False, "RuntimeError")


@scene
async def test_a_name_is_looked_up_once_for_all_who_wait_and_one_that_hangs_keeps_no_other() -> None:
    gate, looked = threading.Event(), []

    def look(name: str) -> str:
        looked.append(name)
        if name == "hangs":
            gate.wait()
        if name == "nobody":
            raise OSError("no such name")
        return name.upper()

    lookups = Lookups(look)
    waiting = [asyncio.ensure_future(lookups.find("hangs")) for _ in range(3)]
    assert await lookups.find("quick") == "QUICK"
    with pytest.raises(OSError, match="no such name"):
        await lookups.find("nobody")
    waiting[0].cancel()
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["HANGS"] * 2
    assert sorted(looked) == ["hangs", "nobody", "quick"]


# --- commands ---


async def run(*argv: str, **env: str) -> Verdict:
    command = Command(argv, env, "/", None)
    try:
        return await command.wait()
    finally:
        command.end()


@scene
async def test_a_command_says_by_its_status_whether_all_is_well_and_by_its_last_line_why_not() -> None:
    assert await run("true") == Verdict(True)
    assert await run("sh", "-c", "echo one >&2; echo two >&2; exit 3") == Verdict(False, "sh: status 3: two")
    assert await run("sh", "-c", "kill -9 $$") == Verdict(False, "sh: signal 9")
    found = await run("no-such-command")
    assert found.passed is False and found.why.startswith("no-such-command: status 127: ")


@scene
async def test_a_command_has_the_environment_and_directory_of_the_child(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    command = Command(["sh", "-c", 'test -e here && test "$WHICH" = "a b"'], {"WHICH": "a b"}, str(tmp_path), None)
    assert await command.wait() == Verdict(True)
    command.end()
    gone = Command(["true"], {}, str(tmp_path / "gone"), None)
    assert (await gone.wait()).passed is False
    gone.end()


@scene
async def test_a_command_that_writes_for_ever_is_not_kept_from_it_and_its_end_is_kept() -> None:
    found = await run("sh", "-c", "head -c 3000000 /dev/zero >&2; echo >&2; echo the end >&2; exit 1")
    assert found == Verdict(False, "sh: status 1: the end")


@scene
async def test_of_a_command_that_is_given_up_nothing_is_left() -> None:
    before = set(os.listdir("/proc/self/fd"))
    command = Command(["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"], {}, "/", None)
    waiting = asyncio.ensure_future(command.wait())
    me = psutil.Process()
    processes = eventually(lambda: [p for p in me.children(recursive=True) if p.name() == "sleep"], 30)
    waiting.cancel()
    command.end()
    while me.children():
        await asyncio.sleep(0.01)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    assert set(os.listdir("/proc/self/fd")) == before


@scene
async def test_what_a_command_leaves_in_its_group_goes_with_it() -> None:
    await run("sh", "-c", "sleep 1000 & echo $! > /dev/null")
    assert not [p for p in psutil.Process().children(recursive=True) if p.name() == "sleep"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@scene
async def test_a_command_runs_as_the_user_of_the_child_with_his_groups_alone() -> None:
    nobody = user_of("nobody")
    groups = " ".join(map(str, sorted({nobody.gid, *nobody.groups})))
    ask = f'test "$(id -un)" = nobody && test "$(id -G | tr " " "\\n" | sort -n | xargs)" = "{groups}"'
    command = Command(["sh", "-c", ask], {}, "/", nobody)
    assert await command.wait() == Verdict(True)
    command.end()


def test_a_user_is_known_with_all_of_his_groups() -> None:
    found = user_of("root")
    assert (found.uid, found.gid, 0 in found.groups) == (0, 0, True)
    with pytest.raises(KeyError):
        user_of("no-such-user")
