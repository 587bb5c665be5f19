"""Commands of agents and clients through a node: results, streams, limits, rights, and what an agent inherits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from otpd.agents import BadArguments, Client, NotData, Overloaded, Refused, Reject, TooLarge, connect
from otpd.ipc.control import ControlError
from tests.e2e.node import Node, gone, node
from tests.helpers import eventually
from tests.sandbox.conftest import why_not_native

CONFIG = """
[commands]
workers = 2
max_queue = 1
queue_timeout = "10m"
slot_uids = "230000-230063"
limits = { wall = "60s" }

[commands.profiles.work]
rw = ["work"]
limits = { output = "8MiB" }

[commands.profiles.git]
commands = ["git *"]

[agents.builder]
script = "builder.py"
commands = ["echo", "python3 -c *", "sleep"]
"""
BUILDER = """
    from otpd.agents import Agent, CallTimeout, call, connect, run

    class Builder(Agent):
        @call
        async def run(self, argv: list[str]) -> list:
            result = await self.exec(argv)
            return [result.status, result.text, result.hint]

        @call
        async def child(self, name: str) -> None:
            await self.start_child({"name": name, "script": "builder.py"})

        @call
        def around(self, argv: list[str]) -> str:
            with connect() as client:
                return client.exec(argv).summary()

        @call
        def blocking(self, argv: list[str]) -> str:
            return self.sync.exec(argv).text

        @call
        async def late(self) -> str:
            try:
                await self.exec(["sleep", "60"])
            except CallTimeout as error:
                return str(error)

        @call
        async def begin(self) -> str:
            self.sleeping = await self.exec(["sleep", "50"], stream=True)
            return self.sleeping.id

    if __name__ == "__main__":
        run(Builder)
"""


@pytest.fixture(scope="module")
def one() -> Iterator[Node]:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    with node(CONFIG, {"builder.py": BUILDER, "work/seed": "seed"}) as made:
        yield made


@pytest.fixture(scope="module")
def client(one: Node) -> Iterator[Client]:
    with connect(one.control) as made:
        yield made


def running(client: Client) -> list[str]:
    return [row["argv"] for row in client.call("commands", "look", timeout=30)["running"] if row["state"] == "running"]


def another_root(n: Node, root: int) -> bool:
    try:
        return bool(n.facts()["pid"] != root)
    except (ControlError, OSError):
        return False


def quiet(client: Client) -> None:
    eventually(lambda: not client.call("commands", "look", timeout=30)["running"], 30, "nothing runs or waits")


def test_what_becomes_of_a_command_is_in_its_result(client: Client) -> None:
    ended = client.exec(["sh", "-c", "cat; id -un >&2; exit 3"], stdin="hello", env={"A": "1"})
    assert (ended.status, ended.exit_code, ended.stdout, ended.stderr) == ("exited", 3, b"hello", b"sandbox\n")
    assert (ended.killed_by, ended.stdout_truncated, ended.limits["wall"]["value"]) == (None, False, 60.0)
    assert {"pidns", "seccomp:2"} <= set(ended.isolation["layers"])
    late = client.exec(["sleep", "60"], timeout=0.3)
    assert (late.status, late.killed_by) == ("killed", "timeout")
    read = "import sys; print(sys.argv, open('in.txt').read())"
    assert client.exec_python(read, ["x"], files={"in.txt": "data"}).text == "['-c', 'x'] data\n"
    assert client.exec(["no-such-command"]).status == "not_found"
    told = client.exec("ls -l")  # type: ignore[arg-type]
    assert (told.status, told.hint) == ("refused", "pass ['ls', '-l']; for a shell, [\"sh\", \"-c\", ...]")
    with pytest.raises(Refused, match="there is no profile 'wrok'; did you mean 'work'") as raised:
        client.exec(["true"], profile="wrok")
    assert raised.value.code == "profile"


def test_a_profile_of_the_file_is_in_force(one: Node, client: Client) -> None:
    ended = client.exec(["sh", "-c", "cat seed; echo made > made"], profile="work", cwd=one.home / "work")
    assert (ended.stdout, (one.home / "work" / "made").read_text()) == (b"seed", "made\n")
    assert client.exec(["ls"], profile="git").status == "refused"


def test_output_larger_than_a_message_comes_whole_and_in_pieces(client: Client) -> None:
    size = 5 << 20
    whole = client.exec(["head", "-c", str(size), "/dev/zero"], profile="work")
    assert (whole.stdout == bytes(size), whole.stdout_truncated) == (True, False)
    with client.exec(["head", "-c", str(size), "/dev/zero"], profile="work", stream=True) as run:
        pieces = [chunk for _, chunk in run]
        assert (b"".join(pieces) == bytes(size), max(map(len, pieces)) <= 256 << 10) == (True, True)
        assert (run.result().exit_code, run.result().stdout_bytes) == (0, size)
    quiet(client)


def test_a_command_is_spoken_to_while_it_runs(client: Client) -> None:
    run = client.exec(["cat"], stdin=True, stream=True)
    for word in (b"one", b"two"):
        run.write(word)
        assert next(run) == ("stdout", word)
    large = os.urandom(1 << 20)
    with client.exec(["wc", "-c"], stdin=True, stream=True) as counting:
        counting.write(large)
        counting.close_stdin()
        assert b"".join(chunk for _, chunk in counting) == b"1048576\n"
    run.close_stdin()
    assert (run.result().status, run.result().exit_code) == ("exited", 0)
    sleeping = client.exec(["sleep", "50"], stream=True)
    sleeping.cancel()
    assert (sleeping.result().status, sleeping.result().killed_by) == ("killed", "cancelled")


def test_a_full_queue_refuses_at_once(client: Client) -> None:
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(client.exec(["sleep", "50"], stream=True))
        with pytest.raises(Overloaded, match="the pool's queue is full"):
            client.exec(["true"])
        with pytest.raises(Overloaded):
            client.exec(["true"], stream=True)
    assert client.exec(["true"]).ok
    quiet(client)


def test_an_agent_may_order_what_its_list_allows(client: Client) -> None:
    assert client.call("builder", "run", argv=["echo", "hi"], timeout=30)[:2] == ["exited", "hi\n"]
    refused = client.call("builder", "run", argv=["ls"], timeout=30)
    assert refused[0] == "refused" and "add a pattern" in refused[2]
    assert client.call("builder", "blocking", argv=["python3", "-c", "print(1)"], timeout=30) == "1\n"


def test_a_client_in_an_agents_process_may_order_no_more_than_the_agent(client: Client) -> None:
    assert client.call("builder", "around", argv=["echo"], timeout=60).startswith("exited 0")
    assert client.call("builder", "around", argv=["ls"], timeout=60).startswith("refused")


def test_own_children_may_order_no_more_than_their_owner(client: Client) -> None:
    client.call("builder", "child", name="hand", timeout=60)
    client.call("hand", "child", name="finger", timeout=60)
    for name in ("hand", "finger"):
        assert client.call(name, "run", argv=["echo", name], timeout=30)[:2] == ["exited", f"{name}\n"]
        assert client.call(name, "run", argv=["ls"], timeout=30)[0] == "refused"


def test_a_command_ends_with_the_deadline_of_the_call_that_it_serves(client: Client) -> None:
    began = time.monotonic()
    with pytest.raises(Exception, match="deadline"):
        client.call("builder", "late", timeout=0.5)
    assert time.monotonic() - began < 30
    quiet(client)
    last = client.call("commands", "look", timeout=30)["last"][-1]
    while_it_ran, while_it_waited = ("killed", "cancelled"), ("cancelled", None)
    assert (last["status"], last["killed_by"]) in (while_it_ran, while_it_waited)
    assert client.call("builder", "run", argv=["echo", "on"], timeout=30)[1] == "on\n"


def test_what_an_owner_has_ordered_ends_with_it(one: Node, client: Client) -> None:
    client.call("builder", "begin", timeout=30)
    with connect(one.control) as leaving:
        leaving.exec(["sleep", "49"], stream=True)
        eventually(lambda: sorted(running(client)) == ["sleep 49", "sleep 50"], 30)
    one.kill(one.pid("builder"))
    quiet(client)
    ended = {row["argv"]: row["killed_by"] for row in client.call("commands", "look", last=200, timeout=30)["last"]}
    assert (ended["sleep 49"], ended["sleep 50"]) == ("owner", "owner")


def test_every_command_is_an_event(one: Node, client: Client) -> None:
    heard = client.events("otpd.emit.command", timeout=60)
    client.exec(["sh", "-c", "exit 7"])
    told = next(event.measurements for event in heard if event.measurements["argv"] == "sh -c 'exit 7'")
    assert (told["caller"], told["status"], told["exit_code"]) == (client.name, "exited", 7)

    def noted() -> bool:
        client.exec(["sh", "-c", "exit 7"])  # the log takes so many at a time and counts the others
        rows = [event for event in one.all_events() if event["event"] == "otpd.commands.ended"]
        return any(row["name"] == client.name and row.get("exit_code") == 7 and row["wall_s"] > 0 for row in rows)

    eventually(noted, 60, "it is in the event log")


def test_workers_are_children_of_the_service_in_the_tree(one: Node, client: Client) -> None:
    client.exec(["true"])
    rows = {name: row for name, row in one.workers().items() if name.startswith("commands-")}
    assert {row["path"] for row in rows.values()} <= {f"services/commands/commands-{n}" for n in (1, 2)}
    victim = next(row for row in rows.values() if row["state"] == "running")

    def variables() -> set[bytes]:
        environment = Path(f"/proc/{victim['pid']}/environ").read_bytes().split(b"\0")
        return {each.partition(b"=")[0] for each in environment if each}

    kept = {b"PATH", b"HOME", b"PYTHONPATH", b"PYTHONHOME", b"PYTHONUSERBASE", b"LD_LIBRARY_PATH"}
    cookie = {b"OTPD_NODE", b"OTPD_CHILD", b"OTPD_GENERATION", b"SPT_NOENV"}
    eventually(lambda: variables() <= kept | cookie, 30, "nothing else of our environment reaches it")
    one.kill(victim["pid"])
    assert client.exec(["true"]).ok
    eventually(lambda: gone(victim["pid"]), 30)


def test_a_person_runs_a_command_and_gets_its_output_and_exit_status(one: Node) -> None:
    def otpd(*words: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
        command = [*one.command, "exec", *words]
        done = subprocess.run(command, cwd=one.home, env=one.env, input=given, capture_output=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    large = os.urandom(1 << 20)
    assert otpd("--profile", "work", "--", "sh", "-c", "cat; echo e >&2; exit 5", given=large) == (5, large, b"e\n")
    assert otpd("--timeout", "200ms", "--", "sleep", "50")[0] == 124
    assert otpd("--", "no-such-command")[0] == 127
    code, _, said = otpd("--profile", "wrok", "--", "true")
    assert (code, b"did you mean 'work'" in said) == (125, True)
    code, out, _ = otpd("--json", "--", "sh", "-c", "cat; kill -9 $$", given=b"in")
    told = json.loads(out)
    assert (code, told["status"], told["signal"], told["stdout"]) == (137, "signaled", 9, "in")


def test_an_interrupt_cancels_the_command(one: Node, client: Client) -> None:
    process = subprocess.Popen(
        [*one.command, "exec", "--", "sh", "-c", "echo begun; sleep 50"], cwd=one.home, env=one.env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdout.close()
    quiet(client)
    (last,) = one.json("commands", "-n", "1")["last"]
    assert (last["argv"], last["status"]) == ("sh -c 'echo begun; sleep 50'", "killed")
    assert last["killed_by"] in ("cancelled", "owner")  # its word and the end of it are on two lanes
    assert f"killed: {last['killed_by']}" in one.otpd("commands", "-n", "1").stdout


EARLY = """
    from otpd.agents import Agent, call, run

    class Early(Agent):
        async def init(self) -> None:
            self.said = (await self.exec(["echo", "early"])).text

        @call
        async def what(self) -> str:
            return self.said

    if __name__ == "__main__":
        run(Early)
"""


@pytest.mark.usefixtures("one")  # skips where there is no sandbox
def test_without_a_table_the_service_comes_with_the_first_command_and_stays() -> None:
    with node('[agents.idle]\nscript = "idle.py"\n', {"early.py": EARLY}) as n:
        assert "commands" not in n.services()
        assert n.otpd("commands").stdout == "no command has run yet; run one with: otpd exec -- CMD\n"
        assert n.otpd("exec", "--", "echo", "hi").stdout == "hi\n"
        assert n.worker("commands")["path"] == "services/commands"
        n.write("otpd.toml", '[agents.idle]\nscript = "idle.py"\n[agents.early]\nscript = "early.py"\n')
        n.otpd("reload")
        assert json.loads(n.otpd("call", "early", "what", "--timeout", "30s").stdout) == "early\n"
        assert n.worker("commands")["generation"] == 1
        root = n.facts()["pid"]
        n.kill(root)
        eventually(lambda: another_root(n, root), 60)
        n.when("commands", 60, state="running")
        n.write("otpd.toml", '[agents.idle]\nscript = "idle.py"\n[commands.profiles.mine]\nenv = { A = "B" }\n')
        assert "restart  services/commands: args" in n.otpd("reload", "--plan").stdout
        n.otpd("reload")
        assert n.otpd("exec", "-p", "mine", "--", "sh", "-c", "echo $A").stdout == "B\n"


def test_an_agent_may_order_commands_before_it_is_ready_when_nobody_has_yet(one: Node) -> None:
    with node('[agents.early]\nscript = "early.py"\n', {"early.py": EARLY}) as n:
        assert json.loads(n.otpd("call", "early", "what", "--timeout", "30s").stdout) == "early\n"


def test_nobody_can_break_the_service_by_what_he_orders(one: Node, client: Client) -> None:
    before = one.worker("commands")["generation"]
    for order in (
        {"argv": 5}, {"argv": None}, {"argv": {"a": 1}}, {"argv": []}, {"argv": [[]]}, {"argv": "a\\"},
        {"argv": ["a"] * 100_000},
        {"argv": ["a"], "wall": -1}, {"argv": ["a"], "wall": float("nan")}, {"argv": ["a"], "wall": float("inf")},
        {"argv": ["a"], "wall": "1"}, {"argv": ["a"], "env": {"A=": "b"}}, {"argv": ["a"], "env": {"A": "\0"}},
        {"argv": ["a"], "files": {"../x": b""}}, {"argv": ["a"], "files": {"x": "\ud800"}}, {"argv": ["a"], "cwd": "\0"},
        {"argv": ["a"], "cwd": "/no/such"}, {"argv": ["-c"], "code": "\ud800"}, {"argv": ["cat"], "stdin": True},
        {"argv": ["a"], "profile": ""}, {"argv": ["a"], "unknown": 1},
    ):  # fmt: skip
        try:
            answer = client.call("commands", "order", timeout=60, **order)  # type: ignore[arg-type]
        except (Reject, BadArguments, TooLarge, NotData):
            continue
        assert answer["status"] in ("refused", "not_found", "not_executable", "setup_failed"), order
    for method in ("read", "write", "end"):
        with pytest.raises(Reject, match="there is no command c1-1"):
            client.call("commands", method, id="c1-1", timeout=60)
    assert client.exec(["true"]).ok
    assert one.worker("commands")["generation"] == before


def test_two_hundred_commands_leave_nothing(one: Node, client: Client) -> None:
    def held() -> int:
        """Descriptors of service and workers, and processes below them."""
        workers = [row["pid"] for name, row in one.workers().items() if name.startswith("commands-")]
        files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (one.pid("commands"), *workers))
        return files + sum(len(psutil.Process(pid).children(recursive=True)) for pid in workers)

    with ExitStack() as both:  # both workers are there
        for _ in range(2):
            both.enter_context(client.exec(["sleep", "50"], stream=True))
        eventually(lambda: len(running(client)) == 2, 60)
    quiet(client)
    before = held()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: client.exec(["true"]).check(), range(200)))
    # The slot for the next command comes and goes; what each command left would be 200 of it.
    eventually(lambda: held() < before + 50, 30, f"descriptors and processes as before, {before}")
