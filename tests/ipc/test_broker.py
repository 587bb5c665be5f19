"""The broker's process: its life under root, who may speak through it, and what is left when it dies.

Statements A2 to A8, K1 to K4 and K8 of messaging.md 3: real processes, real sockets, a root that the test speaks for.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from otpd.ipc.endpoint import Address, Phase
from otpd.ipc.frames import pack
from otpd.ipc.happenings import (
    Answered,
    CallFailed,
    Delivered,
    Down,
    Exit,
    Fenced,
    Replied,
    Welcomed,
)
from otpd.ipc.sockets import Lanes
from otpd.ipc.wire import Status
from tests.helpers import eventually
from tests.ipc.stage import DEADLINE, Agent, Broker, Child, inc

Start = Callable[..., Broker]
Join = Callable[..., Agent]


# --- its life under root ---


def test_it_is_ready_when_it_is_bound_and_beats_though_nothing_happens(brokers: Start) -> None:
    broker = brokers(watchdog=0.4)
    assert sorted(os.listdir(broker.runtime)) == ["b7.1-d", "b7.1-s", "broker.lock"]
    for _ in range(4):
        broker.await_packet("beat", since=len(broker.hear()))


def test_it_ends_at_once_when_root_is_gone(brokers: Start) -> None:
    broker = brokers()
    broker.channel.close()
    assert broker.ended() == (1, "")


def test_it_ends_in_order_when_it_is_asked_to(brokers: Start) -> None:
    broker = brokers()
    broker.process.send_signal(signal.SIGTERM)
    assert broker.ended() == (0, "")


def test_a_broker_that_stands_still_is_seen_by_its_silence(brokers: Start) -> None:
    """K3: root's watchdog ends it after that."""
    broker = brokers(watchdog=0.2)
    broker.stop()
    broker.hear()
    since = len(broker.hear(0.1))
    assert len(broker.hear(0.5)) == since
    broker.resume()
    broker.await_packet("beat", since=since)


def test_a_root_that_reads_nothing_does_not_hold_it_up(brokers: Start, joined: Join) -> None:
    """More answers than fit into the channel wait for it; what is urgent is among them when it reads again."""
    broker = brokers()
    linked, peer = joined(broker, "linked"), joined(broker, "peer")
    linked.end.link("peer")
    linked.end.cast(Address("peer"), b"linked")
    peer.hears(Delivered, linked)
    for ref in range(2000):
        broker.say("stats", ref)
    answer = linked.ask("peer", b"?", peer)
    assert isinstance(answer, Replied) and answer.body == b"?"
    broker.death(peer)
    failed = linked.ask("nobody", b"?")
    assert isinstance(failed, CallFailed) and failed.code == "noproc"
    assert broker.await_packet("terminate") == ["terminate", "linked", inc(1), "linked(peer, killed)"]


def test_a_packet_of_root_that_makes_no_sense_is_ignored(brokers: Start, joined: Join) -> None:
    broker = brokers()
    broker.channel.send(b"\xc1")
    for packet in (1, [], ["no such verb", 1], {"a": 1}):
        broker.channel.send(pack(packet))
    assert joined(broker, "a").end.phase is Phase.LIVE


def test_socket_files_of_earlier_brokers_are_removed_and_nothing_else(runtime: Path, brokers: Start) -> None:
    for name in ("b7.1-s", "b6.12-d"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(runtime / name))
    (runtime / "b7.0-s").write_text("no socket")
    (runtime / "control.sock").write_text("of somebody else")
    brokers(generation=2)
    assert sorted(os.listdir(runtime)) == ["b7.0-s", "b7.2-d", "b7.2-s", "broker.lock", "control.sock"]


def test_agents_of_other_users_reach_it_at_an_abstract_address(brokers: Start, joined: Join) -> None:
    broker = brokers(args={"abstract": True})
    foreign, near = Agent("foreign"), joined(broker, "near")
    broker.row(foreign)
    foreign.lanes = Lanes("ipc://@otpd-0123-b7.1", foreign.identity)
    foreign.end.connected(broker.epoch, 0)
    foreign.hears(Welcomed)
    assert foreign.ask("near", b"?", near) == Replied(1, Status.OK, b"?")
    foreign.close()


def test_without_need_it_has_no_abstract_address(shared: Broker) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        assert probe.connect_ex("\0otpd-0123-b7.1-s") != 0


# --- A2: who is let in ---


def test_a2_hello_with_the_announced_token_process_and_incarnation_is_welcome(shared: Broker, joined: Join) -> None:
    assert joined(shared, "right").end.phase is Phase.LIVE


@pytest.mark.parametrize("wrong", ["token", "identity", "pid", "name", "inc"])
def test_a2_hello_with_anything_else_is_stale(shared: Broker, wrong: str) -> None:
    agent = Agent(f"wrong-{wrong}")
    said = {"token": b"another", "identity": b"another", "pid": os.getppid(), "name": "other", "inc": inc(2)}
    shared.row(agent, **{wrong: said[wrong]})
    agent.connect(shared)
    assert len(agent.hears(Fenced)) == 1
    agent.close()


def test_a2_the_pid_is_what_the_kernel_says_and_not_what_the_peer_says(shared: Broker) -> None:
    """Another process presents everything that is right but itself."""
    agent = Agent("impersonated")
    shared.row(agent)
    with Child(shared, agent) as thief:
        assert thief.line().startswith("Fenced(")


# --- A3 to A7: one incarnation at a time ---


def test_a3_the_row_of_the_next_incarnation_ends_the_one_before(shared: Broker, joined: Join) -> None:
    watcher, first = joined(shared, "a3-watcher"), joined(shared, "a3")
    watcher.end.monitor("a3")
    assert watcher.ask("a3", b"?", first) == Replied(1, Status.OK, b"?")
    second = joined(shared, "a3", 2)
    assert watcher.hears(Down) == [Down(1, "a3", 1, "noconnection")]
    assert watcher.ask("a3", b"!", second) == Replied(2, Status.OK, b"!")


def test_a4_the_death_of_an_incarnation_is_that_of_all_before_it(shared: Broker, joined: Join) -> None:
    watcher, first = joined(shared, "a4-watcher"), joined(shared, "a4")
    watcher.end.monitor("a4")
    assert watcher.ask("a4", b"?", first) == Replied(1, Status.OK, b"?")
    shared.say("death", "a4", inc(3), "killed")
    assert [down.ref for down in watcher.hears(Down)] == [1]
    first.end.ask("whereis", "a4")
    assert len(first.hears(Fenced)) == 1


def test_a5_hello_after_its_own_death_is_refused_for_ever(shared: Broker, joined: Join) -> None:
    agent, watcher = joined(shared, "a5"), joined(shared, "a5-watcher")
    watcher.end.monitor("a5")
    watcher.ask("a5", b"?", agent)
    agent.close()
    shared.death(agent)
    watcher.hears(Down)
    for identity in (agent.identity, Agent("a5").identity):
        again = Agent("a5")
        again.identity, again.token = identity, agent.token
        again.connect(shared)
        assert len(again.hears(Fenced)) == 1
        again.close()


def test_a6_k2_nobody_is_heard_or_spoken_to_before_the_snapshot(runtime: Path) -> None:
    broker = Broker(runtime)
    broker.await_packet("ready")
    agent = Agent("early")
    agent.connect(broker)
    agent.turn()
    broker.say("snapshot", broker.epoch)
    broker.row(agent)
    since = len(broker.hear())
    broker.await_packet("beat", since=since)
    agent.turn()
    assert agent.heard == []
    broker.say("snapshot_end")
    assert agent.hears(Welcomed) == [Welcomed(broker.epoch)]
    agent.close()
    broker.close()


def test_a7_frames_of_one_that_was_replaced_are_dropped_and_answered_stale_once(shared: Broker, joined: Join) -> None:
    old, target = joined(shared, "a7"), joined(shared, "a7-target")
    joined(shared, "a7", 2)
    for _ in range(3):
        old.end.cast(Address("a7-target"), b"from the past")
        old.turn(read=False)
    assert len(old.hears(Fenced)) == 1
    assert target.ask("a7", b"?", seconds=0.2).request == 1
    assert [each for each in target.heard if isinstance(each, Delivered)] == []


def test_a8_a_write_of_one_that_was_replaced_has_no_effect(shared: Broker, joined: Join) -> None:
    old, reader = joined(shared, "a8"), joined(shared, "a8-reader")
    joined(shared, "a8", 2)
    old.end.ask("register", "a8-key", "written by the dead")
    old.hears(Fenced)
    reader.end.ask("lookup", "a8-key")
    assert reader.hears(Answered) == [Answered(1, True, None)]


# --- B3: what one said before it died ---


def test_b3_a_death_is_heard_after_all_that_the_dead_one_had_said_though_the_receiver_was_busy(
    shared: Broker, joined: Join
) -> None:
    watcher, other, mortal = (joined(shared, f"b3-{name}") for name in ("watcher", "other", "mortal"))
    for agent in (watcher, other):
        agent.end.monitor("b3-mortal")
        agent.end.trap(True)
        agent.end.link("b3-mortal")
        agent.ask("b3-other" if agent is watcher else "b3-watcher", b"?", watcher, other)
    watcher.heard.clear()
    for number in range(20):
        mortal.end.cast(Address("b3-watcher"), b"%d" % number)
        mortal.turn()
    mortal.ask("b3-other", b"?", other)
    shared.death(mortal)
    other.hears(Exit)
    watcher.until(lambda: len(watcher.heard) == 22)
    assert [type(each) for each in watcher.heard] == [Delivered] * 20 + [Down, Exit]


# --- K1: a new broker ---


def test_k1_agents_come_back_with_all_that_stood_and_calls_in_flight_fail(brokers: Start, joined: Join) -> None:
    first = brokers()
    asker, silent = joined(first, "asker"), joined(first, "silent")
    asker.end.monitor("silent")
    asker.end.trap(True)
    asker.end.link("silent")
    asker.end.subscribe("news.*")
    asker.end.ask("register", "key", 1)
    asker.hears(Answered, count=2)
    request = asker.end.call(Address("silent"), b"?", time.monotonic_ns() + 10**10, time.monotonic_ns())
    asker.turn()
    first.kill()
    asker.lose()
    silent.lose()
    assert CallFailed(request, "broker_lost", "maybe", "the broker died during the call") in asker.heard
    asker.end.cast(Address("silent"), b"said while there was no broker")

    second = brokers(generation=2)
    second.snapshot(asker, silent)
    for agent in (asker, silent):
        agent.heard.clear()
        agent.connect(second)
        agent.hears(Welcomed)
    assert [each.body for each in silent.hears(Delivered, asker)] == [b"said while there was no broker"]
    silent.end.publish("news.today", b"!")
    asker.until(lambda: any(type(each).__name__ == "EventReceived" for each in asker.heard), silent)
    silent.end.ask("lookup", "key")
    (answer,) = silent.hears(Answered)
    assert isinstance(answer.value, dict) and answer.value["name"] == "asker"
    second.death(silent, "error(1)")
    assert asker.hears(Exit) == [Exit("silent", 1, "error(1)")]
    assert asker.hears(Down) == [Down(1, "silent", 1, "error(1)")]


def test_k1_h4_a_death_while_there_was_no_broker_is_told_by_the_next_one(brokers: Start, joined: Join) -> None:
    first = brokers()
    watcher, mortal = joined(first, "watcher"), joined(first, "mortal")
    watcher.end.monitor("mortal")
    assert watcher.ask("mortal", b"?", mortal) == Replied(1, Status.OK, b"?")
    first.kill()
    watcher.lose()
    mortal.close()
    second, reborn = brokers(generation=2), Agent("mortal", 2)
    second.say("snapshot", second.epoch)
    second.say("death", "mortal", inc(1), "error(9)")
    second.row(watcher)
    second.row(reborn)
    second.say("snapshot_end")
    watcher.connect(second)
    assert watcher.hears(Down) == [Down(1, "mortal", 1, "error(9)")]


def test_t33_a_hundred_agents_are_back_within_a_second_of_the_new_broker(brokers: Start, joined: Join) -> None:
    first = brokers()
    agents = [joined(first, f"a{number}") for number in range(100)]
    first.kill()
    for agent in agents:
        agent.lose()
    second = brokers(generation=2)
    second.snapshot(*agents)
    for agent in agents:
        agent.heard.clear()
        agent.connect(second)
    for agent in agents:
        agent.hears(Welcomed)


# --- K8: one that was stopped ---


def test_k8_one_that_was_stopped_and_replaced_finds_itself_stale_and_has_written_nothing(
    shared: Broker, joined: Join
) -> None:
    agent, target = Agent("k8"), joined(shared, "k8-target")
    with Child(shared, agent) as child:
        shared.row(agent, pid=child.process.pid)
        assert child.line() == "Welcomed(epoch='b7.1')"
        child.process.send_signal(signal.SIGSTOP)
        shared.death(agent, "watchdog")
        successor = joined(shared, "k8", 2)
        child.tell("cast k8-target")
        child.process.send_signal(signal.SIGCONT)
        assert child.line().startswith("Fenced(")
    assert target.ask("k8", b"?", successor) == Replied(1, Status.OK, b"?")
    assert [each for each in target.heard if isinstance(each, Delivered)] == []


# --- what it costs ---


def test_a_broker_leaves_no_thread_and_no_descriptor_of_clients_behind(brokers: Start) -> None:
    broker = brokers()

    def descriptors() -> list[str]:
        return sorted(os.listdir(f"/proc/{broker.pid}/fd"))

    before = descriptors()
    for generation in range(1, 6):
        agent = Agent.joined(broker, "visitor", generation)
        agent.close()
        broker.death(agent)
    assert eventually(lambda: descriptors() == before, DEADLINE)
