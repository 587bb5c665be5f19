"""The life of an agent, run by a real blank under a test that plays root."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from otpd.ipc.endpoint import WINDOW_MESSAGES
from otpd.ipc.frames import pack, send_packet, unpack
from otpd.ipc.wire import Kind, Lane, commands, join, keyed, messages, parse, system
from otpd.supervisor.incarnation import Status
from otpd.supervisor.launch import Credentials
from tests.supervisor.processes import Root, Worker

HEAD = "import asyncio, os, time\nfrom otpd.agents import Agent, Ignore, call, cast, on, run\nclass Feed(Agent):\n"


def start(root: Root, body: str, **more: Any) -> Worker:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return root.script(f"{HEAD}{lines}\nrun(Feed)\nprint('after run')\n", kind="agent", **more)


def stop(worker: Worker, number: int = signal.SIGTERM) -> None:
    signal.pidfd_send_signal(worker.pidfd, number)


@pytest.mark.parametrize("word", ["def", "async def"])
def test_it_is_ready_after_init_and_stops_after_terminate(root: Root, word: str) -> None:
    worker = start(
        root,
        f"""
        {word} init(self, symbol, n: int = 1): print("init", symbol, n, self.name, self.generation)
        {word} terminate(self, reason): print("terminate", reason)
        """.replace("\n        ", "\n"),
        args={"symbol": "A"}, generation=3,
    )  # fmt: skip
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    stop(worker)
    assert worker.packets() == [["exit", "shutdown"]]
    assert worker.printed() == "init A 1 feed 3\nterminate shutdown\nafter run\n"
    assert worker.reap() == Status(code=0)


def test_its_own_stop_signal_stops_it(root: Root) -> None:
    worker = start(root, "def terminate(self, reason): print(reason)", stop_signal=signal.SIGUSR2)
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    stop(worker, signal.SIGUSR2)
    assert worker.packets() == [["exit", "shutdown"]]


@pytest.mark.parametrize("when", ["init", "terminate"])
def test_an_exception_is_printed_from_the_agents_own_frame_and_announced(root: Root, when: str) -> None:
    worker = start(root, f"async def {when}(self, *_): raise RuntimeError('no luck')")
    if when == "terminate":
        assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
        stop(worker)
    assert worker.packets()[-1] == ["exit", "error(RuntimeError: no luck)"]
    lines = worker.printed().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(f"line 4, in {when}")
    assert lines[-1] == "RuntimeError: no luck"
    assert worker.reap() == Status(code=1)


def test_a_task_that_fails_while_nobody_awaits_it_is_a_crash_of_the_agent(root: Root) -> None:
    """asyncio alone keeps silent as long as somebody holds the task object."""
    worker = start(
        root,
        """
async def init(self): self.task = asyncio.create_task(self.work())
async def work(self): raise RuntimeError("nobody had foreseen that")
def terminate(self, reason): print("terminate", reason)
""",
    )
    assert worker.packets()[-1] == ["exit", "error(RuntimeError: nobody had foreseen that)"]
    printed = worker.printed()
    assert printed.startswith("terminate error(RuntimeError: nobody had foreseen that)\nTraceback")
    assert "never retrieved" not in printed
    assert worker.reap() == Status(code=1)


def test_a_task_whose_failure_is_awaited_is_no_crash(root: Root) -> None:
    worker = start(
        root,
        """
async def init(self): self.task = asyncio.create_task(self.watch())
async def work(self): raise RuntimeError("foreseen")
async def watch(self):
    try: await asyncio.create_task(self.work())
    except RuntimeError as error: print("caught", error)
    done = await asyncio.gather(self.work(), self.work(), return_exceptions=True)
    print(len(done), flush=True)
    os.kill(os.getpid(), 15)
""",
    )
    assert worker.packets()[-1] == ["exit", "shutdown"]
    assert worker.printed() == "caught foreseen\n2\nafter run\n"


def test_ignore_is_no_error(root: Root) -> None:
    worker = start(root, "def init(self): raise Ignore")
    assert worker.packets() == [["spawned"], ["ignore"]]
    assert worker.reap() == Status(code=0)


def test_wrong_arguments_are_named_without_a_traceback(root: Root) -> None:
    worker = start(root, "def init(self, symbol: str): pass", args={"symbol": 5})
    text = "agent feed, argument symbol: expected str, got int (5)"
    assert worker.packets() == [["spawned"], ["exit", f"error(ArgumentError: {text})"]]
    assert worker.printed() == text + "\n"


def test_stopped_during_init_it_is_never_ready(root: Root) -> None:
    worker = start(root, "async def init(self): print('in'); await asyncio.sleep(60)")
    assert worker.line() == "in"
    stop(worker)
    assert worker.packets() == [["spawned"], ["exit", "shutdown"]]
    assert worker.reap() == Status(code=0)


def test_the_heartbeat_comes_from_the_loop_and_falls_silent_with_it(root: Root) -> None:
    """A thread beside it lives on; the loop sleeps for good after its third beat."""
    worker = start(
        root,
        """
def init(self): asyncio.get_running_loop().call_later(0.13, self.hang)
def hang(self): print("hangs"); time.sleep(60)
        """,
        watchdog=0.2,
    )  # fmt: skip
    assert [worker.packet() for _ in range(5)] == [["spawned"], ["ready"], ["beat"], ["beat"], ["beat"]]
    assert worker.line() == "hangs"
    with pytest.raises(TimeoutError):
        worker.packet(timeout=0.2)


def test_an_agent_lives_on_though_nobody_hears_its_heartbeat(root: Root) -> None:
    """A root that stands still must hold nobody up: what it has not read fills the channel."""
    worker = start(
        root,
        """
def init(self): asyncio.get_running_loop().call_later(0.5, self.tell)
def tell(self): print("alive")
        """,
        watchdog=0.001,
    )  # fmt: skip
    assert select.select([worker.output], [], [], 20)[0]
    assert worker.line() == "alive"
    stop(worker)
    assert len(worker.packets()) > 100


def test_without_a_watchdog_nothing_beats(root: Root) -> None:
    worker = start(root, "pass")
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    with pytest.raises(TimeoutError):
        worker.packet(timeout=0.1)


def test_the_end_of_the_channel_is_its_own_end(root: Root) -> None:
    worker = start(root, "pass")
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    assert worker.channel is not None
    worker.channel.close()
    assert worker.reap() == Status(code=1)


def test_rubbish_on_the_channel_is_survived(root: Root) -> None:
    worker = start(root, "pass")
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    assert worker.channel is not None
    worker.channel.send(b"\xc1\xff")
    stop(worker)
    assert worker.packets() == [["exit", "shutdown"]]


def test_its_log_goes_to_its_output(root: Root) -> None:
    worker = start(root, "def init(self): self.log.info('%d things', 3)")
    assert worker.line() == "INFO 3 things"


def test_outside_of_otpd_it_says_how_it_is_meant(tmp_path: Path) -> None:
    (tmp_path / "feed.py").write_text(HEAD + "  pass\nrun(Feed)\n")
    run = subprocess.run([sys.executable, "feed.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == (
        "feed.py is a worker of otpd and was started without it. Put it into otpd.toml and start the node:\n\n"
        '    [agents.feed]\n    script = "feed.py"\n\n    $ otpd start\n'
    )


def test_run_takes_a_class_derived_from_agent() -> None:
    from otpd.agents import run

    with pytest.raises(TypeError, match="expects a class derived from Agent, got 5; write: run"):
        run(5)  # type: ignore[arg-type]


def test_the_import_is_light() -> None:
    code = "import sys, otpd.agents; print(sorted({'zmq', 'psutil', 'click', 'rich', 'otpd.supervisor'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert run.stdout == "[]\n"


def test_the_reason_of_a_stop_is_known_whether_signal_or_word_is_seen_first(root: Root) -> None:
    worker = start(root, "def terminate(self, reason): print(reason)")
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    assert worker.channel is not None
    send_packet(worker.channel, ["stopping", "linked(other, killed)"])
    stop(worker)
    assert worker.packets() == [["exit", "linked(other, killed)"]]
    assert worker.printed() == "linked(other, killed)\nafter run\n"


@pytest.mark.parametrize(
    ("reason", "said", "code"), [("normal", "normal", 0), ("shutdown", "shutdown", 0), ("bored", "error(bored)", 1)]
)
def test_it_stops_itself_for_a_reason(root: Root, reason: str, said: str, code: int) -> None:
    worker = start(root, f"async def init(self): self.stop({reason!r})\ndef terminate(self, reason): print(reason)")
    assert worker.packets()[-1] == ["exit", said]
    assert worker.reap() == Status(code=code)
    assert worker.printed().splitlines()[0] == reason


def test_it_stops_itself_in_an_init_that_then_waits(root: Root) -> None:
    worker = start(root, "async def init(self):\n    self.stop('error(bad config)')\n    await asyncio.sleep(60)")
    assert worker.packets() == [["spawned"], ["exit", "error(bad config)"]]
    assert worker.printed() == "error(bad config)\n"
    assert worker.reap() == Status(code=1)


@pytest.mark.parametrize(
    ("ends", "status"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("raise ValueError('in the fork')", 1), ("pass", 1)]
)
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_fork_that_comes_back_says_nothing_to_root_and_leaves_the_loop_alone(
    root: Root, where: str, ends: str, status: int
) -> None:
    worker = start(
        root,
        f"""
async def init(self): self.task = asyncio.create_task(self.work())
async def work(self):
    if {where!r} == "thread": child = await self._host.mailbox._in_thread(self.fork)
    else: child = self.fork()
    if child:
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        await asyncio.sleep(0.01)
        print("alive", flush=True)
def fork(self):
    import sys
    child = os.fork()
    if child == 0: {ends}
    return child
def terminate(self, reason): print("terminate", reason, os.getpid(), flush=True)
""",
    )
    assert (worker.packet(), worker.packet()) == (["spawned"], ["ready"])
    lines = list(iter(worker.line, "alive"))
    assert lines[-1] == f"status {status}"
    stop(worker)
    assert worker.packets() == [["exit", "shutdown"]]
    assert worker.printed().startswith("terminate shutdown")
    assert worker.reap() == Status(code=0)


def test_a_plain_handler_that_hangs_keeps_no_crashed_process(root: Root) -> None:
    """The worker thread is a daemon: after a crash elsewhere, nobody waits for it."""
    worker = start(
        root,
        """
async def init(self):
    self.task = asyncio.create_task(self.fail())
    self._host.mailbox._in_thread(lambda: time.sleep(3600))
async def fail(self):
    await asyncio.sleep(0.05)
    raise RuntimeError("beside a thread that hangs")
""",
    )
    assert worker.packets()[-1] == ["exit", "error(RuntimeError: beside a thread that hangs)"]
    assert worker.reap() == Status(code=1)


def asked(worker: Worker) -> Any:
    """What it asks of root; that it is ready may be said before or after."""
    return next(packet for packet in iter(worker.packet, None) if packet[0] == "child")


@pytest.mark.parametrize("verb", ["start_child({'name': 'w'})", "stop_child('w')", "children()"])
def test_children_are_asked_of_root_and_its_answer_is_given(root: Root, verb: str) -> None:
    worker = start(
        root,
        f"""
async def init(self):
    self.task = asyncio.create_task(self.ask())
async def ask(self):
    try: print(await self.{verb})
    except Exception as error: print(repr(error))
""",
    )
    packet = asked(worker)
    assert packet[:2] == ["child", 1]
    assert worker.channel is not None
    answer = {"start": {"name": "w", "generation": 1}, "stop": None, "which": [{"name": "w"}]}[packet[2]]
    send_packet(worker.channel, ["child", 7, True, "of nobody"])
    send_packet(worker.channel, ["child", 1, True, answer])
    shown = {"start": "Child(name='w', generation=1)", "stop": "None", "which": "[{'name': 'w'}]"}[packet[2]]
    assert worker.line() == shown


def test_what_root_refuses_is_a_child_error(root: Root) -> None:
    worker = start(
        root,
        """
async def init(self):
    self.task = asyncio.create_task(self.ask())
async def ask(self):
    for spec in ({"name": "w", "x": {1}}, {"name": "w"}):
        try: await self.start_child(spec)
        except Exception as error: print(type(error).__name__, error)
""",
    )
    assert worker.line().startswith("ChildError expected a table as in otpd.toml with a name, got ")
    assert asked(worker) == ["child", 2, "start", {"name": "w"}]
    assert worker.channel is not None
    send_packet(worker.channel, ["child", 2, False, "unknown key"])
    assert worker.line() == "ChildError unknown key"


# --- the line to a broker, which the test plays ---


class Doors:
    """The two sockets of a broker."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self.endpoint = f"ipc://{directory}/b"
        self.sockets = {lane: self._bind(lane) for lane in Lane}

    def _bind(self, lane: Lane) -> zmq.Socket[bytes]:
        door = self.context.socket(zmq.ROUTER)
        door.setsockopt(zmq.LINGER, 0)
        door.setsockopt(zmq.RCVTIMEO, 10_000)
        door.bind(f"{self.endpoint}-{lane.value}")
        return door

    def hears(self, lane: Lane) -> list[list[Any]]:
        """The commands of the next frame."""
        self.identity, frame = self.sockets[lane].recv_multipart()
        return list(commands(frame))

    def says(self, lane: Lane, frame: bytes) -> None:
        self.sockets[lane].send_multipart([self.identity, frame])

    def welcome(self) -> dict[str, Any]:
        """The hello of the system lane."""
        [[verb, hello]] = self.hears(Lane.SYSTEM)
        assert (verb, self.hears(Lane.DATA)[0][0]) == ("hello", "hello")
        self.says(Lane.SYSTEM, system(["welcome", {"epoch": "b1", "credit": [100, 100_000], "id": 1}]))
        return dict(hello)

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    doors = Doors(tmp_path)
    yield doors
    doors.close()


def speaking(root: Root, doors: Doors, body: str, **more: Any) -> Worker:
    who = Credentials(life=2, identity=b"i" * 16, token=b"t" * 32, broker=("b1", doors.endpoint), runtime="/")
    return start(root, body, generation=3, credentials=who, **more)


def test_it_says_hello_with_what_proves_who_it_is_and_what_it_hears(root: Root, doors: Doors) -> None:
    worker = speaking(root, doors, "trap_exits = True\n@on('a.*')\nasync def a(self, event): print(event.topic, event.n)")
    hello = doors.welcome()
    assert (hello["name"], hello["inc"], hello["token"], hello["trap"]) == ("feed", 2 << 32 | 3, b"t" * 32, True)
    said = [*doors.hears(Lane.DATA)]
    assert said[0][0] == "subscribe" and said[0][2] == "a.*"
    doors.says(Lane.DATA, system(["name", 7, "source", 1]))
    doors.says(Lane.DATA, join(Kind.EVENT, 7, [(1, 0, keyed("a.b", pack({"n": 5})))], 1))
    assert worker.line() == "a.b 5"


def test_one_that_was_replaced_ends_at_once_without_terminate(root: Root, doors: Doors) -> None:
    """A2, K8: stale means that another speaks for the name; nothing more may be done by this one."""
    worker = speaking(root, doors, "def terminate(self, reason): print('terminate')")
    doors.welcome()
    doors.says(Lane.SYSTEM, system(["stale", "generation 4 is current"]))
    assert worker.died()
    assert worker.packets()[-1] == ["exit", "stale"]
    assert worker.printed() == "feed: a newer incarnation has taken over (generation 4 is current)\n"
    assert worker.reap() == Status(code=1)


def test_what_was_handled_is_told_before_the_end_and_a_reply_leaves_before_a_crash(root: Root, doors: Doors) -> None:
    """What it was given and did not handle counts as lost; the caller of the call that crashed it has its answer."""
    worker = speaking(
        root, doors, "@call\nasync def boom(self): raise ValueError('no luck')\n@cast\nasync def note(self): pass"
    )
    doors.welcome()
    assert doors.hears(Lane.SYSTEM)[0][0] == "credit"
    doors.says(Lane.DATA, system(["name", 7, "source", 1]))
    doors.says(Lane.DATA, join(Kind.CAST, 7, [(1, 0, pack(["note", {}]))]))
    doors.says(Lane.DATA, join(Kind.CALL, 7, [(9, 0, pack(["boom", {}]))]))
    _, reply = doors.sockets[Lane.SYSTEM].recv_multipart()
    [(number, status, body)] = list(messages(reply))
    assert (parse(reply).kind, number, status, unpack(bytes(body))[:2]) == (Kind.REPLY, 9, 1, ["ValueError", "no luck"])
    [[verb, count, _]] = doors.hears(Lane.SYSTEM)
    assert (verb, count) == ("credit", WINDOW_MESSAGES + 2)
    assert worker.reap() == Status(code=1)


def test_a_new_broker_gets_fresh_sockets_and_a_hello(root: Root, doors: Doors, tmp_path: Path) -> None:
    """K1."""
    worker = speaking(root, doors, "def init(self): self.monitor('other')")
    assert doors.welcome()["monitors"] == [[1, "other", None, False]]
    doors.close()
    (tmp_path / "next").mkdir()
    following = Doors(tmp_path / "next")
    try:
        assert worker.channel is not None
        send_packet(worker.channel, ["broker", None, None])
        send_packet(worker.channel, ["broker", "b2", following.endpoint])
        assert following.welcome()["monitors"] == [[1, "other", None, False]]
        stop(worker)
        assert worker.packets()[-1] == ["exit", "shutdown"]
    finally:
        following.close()


def test_the_end_does_not_wait_for_a_broker_that_takes_nothing(root: Root, doors: Doors) -> None:
    """T13, T35: linger is 200 ms, and libzmq is not trusted to keep to it."""
    worker = speaking(
        root, doors, "async def terminate(self, reason):\n    for n in range(9): await self.cast('x', 'y', z=b'z' * 60000)"
    )
    doors.welcome()
    stop(worker)
    assert worker.died()
    assert worker.packets()[-1] == ["exit", "shutdown"]
