"""root's side of messages, with a broker that says what it is told: rows, deaths, ends, and where the broker is."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from otpd.ipc.control import Control, ControlError
from otpd.supervisor.addresses import BACKLOG
from otpd.supervisor.clients import MAX_CLIENTS
from tests.e2e.fakebroker import FakeBroker, node_with_fake
from tests.e2e.node import Node, carries
from tests.e2e.watching import environment
from tests.helpers import eventually

#: An agent without the SDK: writes down its job, then every packet and signal that it gets; ends at SIGTERM.
BARE = """
import json, os, pathlib, select, signal, socket, sys, msgpack

job = msgpack.unpackb(open(int(os.environ["OTPD_JOB_FD"]), "rb").read())
channel = socket.socket(fileno=int(os.environ["OTPD_CONTROL_FD"]))
log = open(pathlib.Path(os.environ["HOME"]) / f"{job['name']}.{job['generation']}", "a", buffering=1)
note = lambda what: print(json.dumps(what, default=bytes.hex), file=log)
woken, wake = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(wake)
signal.signal(signal.SIGTERM, lambda *_: None)
note(job)
channel.send(msgpack.packb(["ready"]))
channel.setblocking(False)
while True:
    ready, _, _ = select.select([channel, woken], [], [])
    try:
        while data := channel.recv(1 << 18):
            note(msgpack.unpackb(data))
    except BlockingIOError:
        pass
    if woken in ready:
        note("SIGTERM")
        sys.exit(0)
"""
BARES = {"bare.py": BARE}


def bare(name: str, *more: str) -> str:
    return "\n".join([f"[agents.{name}]", 'script = "bare.py"', *more, ""])


def noted(n: Node, name: str, generation: int = 1) -> list[Any]:
    """What an incarnation of a bare agent wrote down; its job first."""
    try:
        text = (n.home / f"{name}.{generation}").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def inc(life: int, generation: int) -> int:
    return life << 32 | generation


# --- what an incarnation is given ---


def test_an_agent_is_given_what_it_proves_itself_with_and_nobody_else_sees_it() -> None:
    """A2: identity and token come in the inherited file alone; every incarnation has its own."""
    with node_with_fake(bare("a") + bare("b") + '[programs.p]\ncommand = ["sleep", "1000"]\n', BARES) as (n, broker):
        jobs = {name: noted(n, name)[0] for name in ("a", "b")}
        runtime = str(Path(n.control).parent)
        assert jobs["a"] | {"identity": "", "token": ""} == {
            "name": "a", "generation": 1, "life": 1, "args": {}, "watchdog": None, "stop_signal": signal.SIGTERM,
            "identity": "", "token": "", "broker": ["b1.1", f"ipc://{runtime}/b1.1"], "runtime": runtime, "spawn": "warn",
        }  # fmt: skip
        n.kill(n.pid("a"))
        n.reborn("a", 1)
        jobs["a again"] = eventually(lambda: noted(n, "a", 2))[0]
        secrets = [job[key] for job in [*jobs.values(), broker_secrets(broker)] for key in ("identity", "token")]
        assert [len(secret) for secret in secrets] == [32, 64] * 4, "16 and 32 bytes"
        assert len(set(secrets)) == len(secrets)
        for process in n.processes():
            shown = Path(f"/proc/{process.pid}/environ").read_bytes() + Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert not [secret for secret in secrets if secret.encode() in shown or bytes.fromhex(secret) in shown]
        row = broker.row("a", inc=inc(1, 2), state="ready")
        assert (row["identity"].hex(), row["token"].hex()) == (jobs["a again"]["identity"], jobs["a again"]["token"])
        assert row["pid"] == n.pid("a")
        assert set(broker.copy()) == {"a", "b"}, "a program has no address, and the broker none of its own"


def broker_secrets(broker: FakeBroker) -> dict[str, str]:
    job = broker.job()
    assert (job["name"], job["life"], job["watchdog"], job["broker"], job["args"]) == ("broker", 1, 2.0, None, {})
    return {key: job[key].hex() for key in ("identity", "token")}


def test_every_child_knows_the_control_socket_of_its_node() -> None:
    with node_with_fake(bare("a") + '[programs.p]\ncommand = ["sleep", "1000"]\n', BARES) as (n, _broker):
        for pid in (n.pid("a"), n.pid("p"), n.services()["broker"]["pid"]):
            assert f"OTPD_CONTROL={n.control}".encode() in environment(pid)


# --- rows ---


def test_a_crash_is_told_as_death_then_restart_then_ready() -> None:
    """A1, K1: in this order, with the incarnation's number and its reason."""
    with node_with_fake(bare("a"), BARES) as (n, broker):
        first = broker.row("a", state="ready")
        before = len(broker.heard())
        n.kill(n.pid("a"))
        broker.row("a", inc=inc(1, 2), state="ready")
        words = [_word(packet) for packet in broker.heard()[before:]]
        assert [word for word in words if "restarting" not in word] == [
            f"death a {first['inc']} killed", f"row a {inc(1, 2)} starting", f"row a {inc(1, 2)} ready",
        ]  # fmt: skip


def _word(packet: list[Any]) -> str:
    match packet:
        case ["row", row]:
            return f"row {row['name']} {row['inc']} {row['state']}"
    return " ".join(str(each) for each in packet)


def test_what_becomes_of_a_name_is_told() -> None:
    """Buffered while it backs off, given up when it is stopped, back when it is started, gone when it is deleted."""
    config = bare("a") + bare("b", "[agents.b.backoff]", 'initial = "100s"', 'max = "100s"')
    with node_with_fake(config, BARES) as (n, broker):
        for name in ("a", "b"):
            broker.row(name, state="ready")
        for _ in range(2):  # the first restart is at once
            generation = n.worker("b")["generation"]
            n.kill(n.pid("b"))
            eventually(lambda g=generation: n.worker("b")["generation"] > g or n.worker("b")["state"] == "backoff")
        assert broker.row("b", state="restarting", pid=None)["reason"] == "killed"
        n.ask("child", action="stop", names=["a"])
        broker.row("a", state="stopped", pid=None, token=None)
        n.ask("child", action="start", names=["a"])
        broker.row("a", state="ready", inc=inc(1, 2))
        n.ask("child", action="stop", names=["a"])
        n.ask("child", action="delete", names=["a"])
        eventually(lambda: "a" not in broker.copy())
        assert broker.heard()[-1] == ["gone", "a"]


def test_everybody_below_a_supervisor_that_gave_up_is_stopped_and_comes_back_with_it() -> None:
    config = "[supervisors.s]\nmax_restarts = 0\n" + bare("a", 'supervisor = "s"') + bare("b", 'supervisor = "s"')
    with node_with_fake(config, BARES) as (n, broker):
        broker.row("b", state="ready")
        n.kill(n.pid("a"))
        for name in ("a", "b"):
            broker.row(name, state="ready", inc=inc(1, 2))
        n.ask("child", action="stop", names=["s"])
        for name in ("a", "b"):
            broker.row(name, state="stopped")
        n.ask("child", action="delete", names=["s"])
        eventually(lambda: broker.copy() == {}, 10, "both names are gone")


def test_names_wait_from_the_start_for_those_who_are_to_have_them() -> None:
    """A name that the config has is starting before its turn to start has come."""
    config = bare("slow").replace("bare.py", "never.py") + bare("later")
    with node_with_fake(config, {**BARES, "never.py": "import time; time.sleep(1000)"}, start=False) as (n, broker):
        assert n.otpd("start", "--detach", "--timeout", "1s", check=None).returncode in (1, 8)
        broker.row("later", state="starting", inc=0)
        broker.row("slow", state="starting", pid=n.pid("slow"))


def test_group_and_inbox_come_with_the_row_and_change_without_a_restart() -> None:
    config = bare("w", "instances = 2", 'inbox = { messages = 5, bytes = "2KiB", policy = "drop_oldest" }')
    with node_with_fake(config, BARES) as (n, broker):
        row = broker.row("w-1", state="ready")
        assert (row["group"], row["inbox"]) == ("w", {"messages": 5, "bytes": 2048, "policy": "drop_oldest"})
        n.write("otpd.toml", config.replace("messages = 5", "messages = 6"))
        n.otpd("reload")
        broker.row("w-2", inbox={"messages": 6, "bytes": 2048, "policy": "drop_oldest"}, inc=inc(1, 1))


def test_a_name_that_lives_elsewhere_in_the_tree_goes_on_counting() -> None:
    """A1: deleted in one place and added in another, it must not be taken for an incarnation that is dead."""
    with node_with_fake("[supervisors.s]\n" + bare("a") + bare("b"), BARES) as (n, broker):
        n.kill(n.pid("a"))
        broker.row("a", state="ready", inc=inc(1, 2))
        spec = specification(n, "a")
        for action in ("stop", "delete"):
            n.ask("child", action=action, names=["a"])
        assert n.ask("request", request={"op": "start_child", "sup": "s", "child": spec}) == ["ok", 3]
        broker.row("a", state="ready", inc=inc(1, 3))


def specification(n: Node, name: str) -> dict[str, Any]:
    from otpd.supervisor import config, specdata

    found = config.load(str(n.home / "otpd.toml"))
    return specdata.to_data(next(child for child in found.top.children if child.id == name))


def test_children_of_an_agent_have_addresses_that_end_with_it_and_count_on_under_another() -> None:
    """A1: the name of a child is free when its agent is gone, and its next holder is a later incarnation."""
    child = {"name": "w", "script": "bare.py"}
    start = f"channel.send(msgpack.packb(['child', 1, 'start', {child}]))\n"
    parent = BARE.replace("channel.setblocking", f"{start}channel.setblocking")
    config = bare("a").replace("bare.py", "parent.py") + bare("b").replace("bare.py", "parent.py")
    with node_with_fake(config, {**BARES, "parent.py": parent}) as (n, broker):
        first = broker.row("w", state="ready")
        holder, other = ("a", "b") if n.worker("w")["path"] == "a/w" else ("b", "a")
        n.ask("child", action="stop", names=[holder])
        eventually(lambda: "w" not in broker.copy(), 10, "the name is free")
        n.ask("child", action="restart", names=[other])
        again = broker.row("w", state="ready")
        assert (first["inc"], again["inc"]) == (inc(1, 1), inc(1, 2))
        assert n.worker("w")["path"] == f"{other}/w"


# --- the broker comes and goes ---


def test_agents_are_told_of_the_next_broker_and_it_of_them() -> None:
    """K1, K2: no agent is restarted; the new broker begins with a snapshot that has the deaths, too."""
    with node_with_fake(bare("a") + bare("b"), BARES) as (n, broker):
        n.kill(n.pid("b"))
        broker.row("b", state="ready", inc=inc(1, 2))
        before = {name: row["pid"] for name, row in n.workers().items()}
        endpoint = Path(n.control).parent / "b1.1-s"
        endpoint.touch()  # as if it had bound there
        n.kill(n.services()["broker"]["pid"])
        new = ["broker", "b1.2", f"ipc://{Path(n.control).parent}/b1.2"]
        for name, generation in (("a", 1), ("b", 2)):
            said = lambda name=name, generation=generation: noted(n, name, generation)[-1:] == [new]  # noqa: E731
            eventually(said, 10, f"{name} knows of the new broker")
            assert noted(n, name, generation)[1:][-2:] == [["broker", None, None], new]
        assert {name: row["pid"] for name, row in n.workers().items()} == before
        eventually(lambda: broker.heard(2)[-1:] == [["snapshot_end"]])
        packets = broker.heard(2)
        assert [packet[0] for packet in packets] == ["snapshot", "death", "row", "row", "snapshot_end"]
        assert (packets[0][1], packets[1]) == ("b1.2", ["death", "b", inc(1, 1), "killed"])
        assert broker.states(2) == {"a": "ready", "b": "ready"}
        assert not endpoint.exists(), "what a dead broker leaves is removed"


def test_a_broker_that_stands_still_is_replaced_by_the_watchdog() -> None:
    """K3: 2 s without a turn of its loop. T33: meanwhile children are controlled as ever."""
    with node_with_fake(bare("a") + bare("b"), BARES) as (n, broker):
        before = n.pid("a")
        n.kill(n.services()["broker"]["pid"], signal.SIGSTOP)
        n.kill(n.pid("b"))
        n.reborn("b", 1)
        n.ask("child", action="restart", names=["b"])
        eventually(lambda: broker.states(2) == {"a": "ready", "b": "ready"}, 10, "the next broker has the table")
        assert broker.row("b", 2)["inc"] == inc(1, 3)
        assert n.pid("a") == before
        (death,) = n.ask("why", name="broker")["deaths"]
        assert (death["reason"], death["cause"]) == ("killed", "watchdog: silent for 2 s")


def test_a_broker_that_can_t_start_holds_nobody_up() -> None:
    """It backs off by itself; agents run, and are told when there is one."""
    with node_with_fake(bare("a"), BARES, start=False) as (n, broker):
        good = (n.home / "fake/broker.py").read_text()
        (n.home / "fake/broker.py").write_text("raise SystemExit(3)")
        done = n.start(check=1)
        assert "broker" in done.stderr
        assert n.worker("a")["state"] == "running"
        assert noted(n, "a")[0]["broker"] is None
        assert n.services()["broker"]["state"] in ("backoff", "restarting")
        (n.home / "fake/broker.py").write_text(good)
        eventually(lambda: len(noted(n, "a")) > 1, 15, "a hears of the broker")
        assert n.worker("a")["generation"] == 1
        generation = n.services()["broker"]["generation"]
        assert broker.row("a", generation, state="ready")["inc"] == inc(1, 1)


def test_a_slow_broker_gets_the_whole_table_instead_of_all_the_news() -> None:
    """Its channel is full and too much waits: what it hears when it reads again is root's table, row by row."""
    with node_with_fake(bare("a") + bare("b"), BARES) as (n, broker):
        broker.order(b"deaf")
        with Control.open(n.control) as stays:
            part = next(stays.stream("connect", 10.0))
            for _ in range(BACKLOG // 2):
                with Control.open(n.control) as client:
                    next(client.stream("connect", 10.0))
            n.kill(n.pid("b"))
            n.reborn("b", 1)
            broker.order(b"hear")
            whole = [["snapshot", "b1.1"], ["snapshot_end"]]
            told = lambda: [packet for packet in broker.heard() if packet in whole] == whole * 2  # noqa: E731
            eventually(told, 10, "a second snapshot")
            broker.row("b", inc=inc(1, 2), state="ready")
            assert broker.states() == {"a": "ready", "b": "ready", part["name"]: "ready"}
            assert n.services()["broker"]["generation"] == 1


# --- ends ---


def test_h5_a_broken_link_ends_the_incarnation_under_its_ladder_with_that_reason() -> None:
    with node_with_fake(bare("a") + bare("b", 'restart = "transient"'), BARES) as (n, broker):
        row, reason = broker.row("b", state="ready"), "linked(a, killed)"
        broker.say("terminate", "b", row["inc"] - 1, reason)
        broker.say("terminate", "b", row["inc"] + 1, reason)
        broker.say("terminate", "nobody", row["inc"], reason)
        broker.say("terminate", "b", row["inc"], reason)
        broker.row("b", state="ready", inc=row["inc"] + 1)
        assert noted(n, "b")[-2:] == [["stopping", reason], "SIGTERM"]
        assert ["death", "b", row["inc"], reason] in broker.heard()
        (death,) = n.ask("why", name="b")["deaths"]
        assert (death["reason"], death["status"], death["asked_by"]) == (reason, 0, "a link")
        assert n.worker("b")["generation"] == 2
        assert n.worker("a")["generation"] == 1


def test_h6_an_incarnation_that_is_ended_twice_ends_once() -> None:
    with node_with_fake(bare("a"), BARES) as (_n, broker):
        row = broker.row("a", state="ready")
        for _ in range(3):
            broker.say("terminate", "a", row["inc"], "linked(b, error(1))")
        broker.row("a", state="ready", inc=inc(1, 2))
        assert [packet[2] for packet in broker.heard() if packet[0] == "death"] == [row["inc"]]


def test_nobody_but_the_broker_can_end_others() -> None:
    """A packet of an agent that looks like the broker's is none."""
    script = BARE.replace('channel.send(msgpack.packb(["ready"]))', """
channel.send(msgpack.packb(["ready"]))
channel.send(msgpack.packb(["terminate", "a", 1 << 32 | 1, "linked(x, killed)"]))
channel.send(msgpack.packb(["event", "strike", "a", {}]))
""")
    with node_with_fake(bare("a") + bare("b").replace("bare.py", "bad.py"), {**BARES, "bad.py": script}) as (n, broker):
        broker.row("b", state="ready")
        n.kill(n.pid("b"))
        n.reborn("b", 1)
        assert n.worker("a")["generation"] == 1
        assert [event for event in n.all_events() if event["event"] == "otpd.broker.strike"] == []


def test_an_ordered_stop_is_told_before_the_signal() -> None:
    with node_with_fake(bare("a"), BARES) as (n, _broker):
        n.ask("child", action="stop", names=["a"])
        assert noted(n, "a")[-2:] == [["stopping", "shutdown"], "SIGTERM"]


def test_agents_are_stopped_while_the_broker_still_lives() -> None:
    """The services stop last, so that what agents say in terminate() still arrives."""
    with node_with_fake(bare("a"), BARES) as (n, broker):
        n.stop()
        heard = [_word(packet) for packet in broker.heard()]
        assert f"death a {inc(1, 1)} normal" in heard


# --- events ---


def test_events_of_the_broker_are_noted_and_a_storm_is_counted() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        broker.say("event", "breaker_opened", "a", {"failures": 5, "name": "forged", "at": 0})
        found: dict[str, Any] = eventually(lambda: _events(n, "breaker_opened"))[0]
        assert (found["name"], found["failures"], found["at"] > 1) == ("a", 5, True)
        for bad in (["event", "Bad Kind", "a", {}], ["event", "x", 3, {}], ["event"], "event", ["event", "x", "a", []]):
            broker.order(__import__("msgpack").packb(bad))
        for _ in range(300):
            broker.say("event", "strike", "a", {"why": "x"})
        suppressed: dict[str, Any] = eventually(lambda: _events(n, "suppressed"))[0]
        strikes = len(_events(n, "strike"))
        assert 90 <= strikes <= 140
        eventually(lambda: strikes + sum(each["count"] for each in _events(n, "suppressed")) == 300)
        assert suppressed["name"] == "broker"


def _events(n: Node, kind: str) -> list[dict[str, Any]]:
    return [event for event in n.all_events() if event["event"] == f"otpd.broker.{kind}"]


# --- clients ---


def test_a_client_has_an_address_for_as_long_as_its_connection() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        with Control.open(n.control) as control:
            parts = control.stream("connect", 10.0)
            part = next(parts)
            endpoint = f"ipc://{Path(n.control).parent}"
            assert part | {"identity": b"", "token": b""} == {
                "name": f"@{os.getpid()}.1", "inc": inc(1, 1), "identity": b"", "token": b"",
                "broker": ["b1.1", f"{endpoint}/b1.1"],
            }  # fmt: skip
            row = broker.row(part["name"], kind="client", state="ready", pid=os.getpid(), inc=part["inc"])
            assert (row["identity"], row["token"]) == (part["identity"], part["token"])
            n.kill(n.services()["broker"]["pid"])
            assert next(parts) == {**part, "broker": None}
            assert next(parts) == {**part, "broker": ["b1.2", f"{endpoint}/b1.2"]}
            broker.row(part["name"], 2, state="ready")
        eventually(lambda: part["name"] not in broker.copy(2))
        assert broker.heard(2)[-2:] == [["death", part["name"], part["inc"], "normal"], ["gone", part["name"]]]


def test_a_client_whose_link_broke_is_told_and_let_go() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker), Control.open(n.control) as control:
        parts = control.stream("connect", 10.0)
        part = next(parts)
        broker.say("terminate", part["name"], part["inc"], "linked(a, killed)")
        with pytest.raises(ControlError, match=r"is ended: linked\(a, killed\)"):
            next(parts)
        eventually(lambda: part["name"] not in broker.copy())


def test_one_client_too_many_is_refused_and_operators_still_get_through() -> None:
    with node_with_fake(bare("a"), BARES) as (n, _broker):
        clients = [Control.open(n.control) for _ in range(MAX_CLIENTS)]
        for client in clients:
            next(client.stream("connect", 10.0))
        with pytest.raises(ControlError, match=f"{MAX_CLIENTS} clients are connected") as refused:
            n.ask("connect")
        assert (refused.value.code, n.worker("a")["state"]) == (3, "running")
        for client in clients:
            client.close()
        eventually(lambda: n.ask("node")["state"] == "running")


# --- questions ---


def answer(broker: FakeBroker, what: str, *values: Any) -> None:
    """To the last question."""
    question = eventually(lambda: next((packet for packet in reversed(broker.heard()) if packet[0] == what), None))
    assert question is not None
    for value in values:
        broker.say("answer", question[1], value, value is values[-1])


def asked(n: Node, op: str, **more: Any) -> socket.socket:
    """A request that is sent, to be read later."""
    import msgpack

    body = msgpack.packb({"op": op, **more})
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(n.control)
    connection.sendall(struct.pack(">I", len(body)) + body)
    return connection


def read(connection: socket.socket) -> Any:
    import msgpack

    with connection:
        length = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))[0]
        return msgpack.unpackb(connection.recv(length, socket.MSG_WAITALL))


def test_stats_are_the_brokers_numbers_beside_roots_rows() -> None:
    with node_with_fake(bare("a") + '[programs.p]\ncommand = ["sleep", "1000"]\n', BARES) as (n, broker):
        connection = asked(n, "stats")
        answer(broker, "stats", [{"name": "a", "inbox": 2, "state": "forged"}, "junk"], [{"name": "@1.1", "inbox": 0}])
        rows = {row["name"]: row for row in read(connection)["result"]}
        assert list(rows) == ["broker", "a", "p", "@1.1"]
        assert (rows["a"]["inbox"], rows["a"]["state"], "inbox" in rows["p"]) == (2, "running", False)


def test_a_breaker_is_forced_through_root() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        connection = asked(n, "breaker", name="a", mode="open")
        answer(broker, "breaker", "open")
        assert read(connection)["result"] == "open"
        assert [packet[2:] for packet in broker.heard() if packet[0] == "breaker"] == [["a", "open"]]
        for request, code in (({"name": "b", "mode": "open"}, 4), ({"name": "a", "mode": "shut"}, 2)):
            with pytest.raises(ControlError) as refused:
                n.ask("breaker", **request)
            assert refused.value.code == code


def test_a_breaker_that_the_broker_does_not_know_is_no_success() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        connection = asked(n, "breaker", name="a", mode="auto")
        answer(broker, "breaker", {"code": "noproc", "text": "nobody is called a"})
        refusal = read(connection)
        assert (refusal["code"], refusal["error"]) == (4, "a has no address")


def test_a_broker_that_does_not_answer_or_is_away_is_an_error_and_no_wait() -> None:
    with node_with_fake(bare("a"), BARES) as (n, broker):
        with pytest.raises(ControlError, match="the broker did not answer within 1 s") as late:
            n.ask("stats")
        assert late.value.code == 8
        connection = asked(n, "stats")
        eventually(lambda: len([packet for packet in broker.heard() if packet[0] == "stats"]) == 2)
        n.ask("child", action="stop", names=["broker"])
        assert (read(connection)["code"], n.worker("a")["state"]) == (3, "running")
        with pytest.raises(ControlError, match="there is no broker now") as away:
            n.ask("stats")
        assert away.value.code == 3
        n.ask("child", action="start", names=["broker"])
        assert carries_broker(n)


def carries_broker(n: Node) -> bool:
    return [p for p in n.processes() if carries(p, "OTPD_CHILD=broker")] != []
