"""The pitfalls of ZeroMQ brokers that were reproduced (messaging.md 1.2): none of them can bite this one.

Those of an agent's own sockets (T10, T12, T13) are in test_sockets.
"""

from __future__ import annotations

import os
import random
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import zmq

from otpd.ipc import lowlevel
from otpd.ipc.endpoint import Address, Phase
from otpd.ipc.happenings import Answered, CastAccepted, CastRejected, Delivered, Down, Fenced, Replied, Welcomed
from otpd.ipc.sockets import Lanes
from otpd.ipc.wire import MAX_BODY, Kind, Lane, Status, join
from tests.helpers import eventually
from tests.ipc.stage import Agent, Broker, Child, Raw

Start = Callable[..., Broker]
Join = Callable[..., Agent]
MIB = 1 << 20


def bodies(agent: Agent) -> list[bytes]:
    return [each.body for each in agent.heard if isinstance(each, Delivered)]


def test_t1_nothing_is_dropped_in_silence_for_a_receiver_that_is_slow(shared: Broker, joined: Join) -> None:
    """ROUTER drops what a peer's queue does not hold; here the sender is told of each cast that was not taken."""
    sender, slow = joined(shared, "t1-sender"), joined(shared, "t1-slow")
    count = 4000
    for number in range(count):
        sender.end.cast(Address("t1-slow"), b"%d" % number)
    sender.hears(CastRejected)
    sender.until(lambda: sender.end.room and sender.end.cast(Address("nobody"), b"last"))
    sender.until(lambda: any(isinstance(each, CastRejected) and each.target == "nobody" for each in sender.heard))
    rejected = [each for each in sender.heard if isinstance(each, CastRejected) and each.target == "t1-slow"]
    assert {each.code for each in rejected} == {"overloaded"}
    slow.until(lambda: len(bodies(slow)) + len(rejected) >= count)
    assert bodies(slow) == [b"%d" % number for number in range(len(bodies(slow)))]
    assert len(bodies(slow)) + len(rejected) == count


def test_t2_t15_a_second_peer_with_a_routing_id_in_use_neither_is_heard_nor_evicts_the_first(
    shared: Broker, joined: Join
) -> None:
    first, target = joined(shared, "t2"), joined(shared, "t2-target")
    impostor = Lanes(shared.endpoint, first.identity)
    forged = join(Kind.CAST, 1, [(1, 0, b"forged")])
    first.end.cast(Address("t2-target"), b"before")
    first.turn()
    impostor.send([(lane, forged) for lane in Lane])
    assert first.ask("t2-target", b"?", target) == Replied(2, Status.OK, b"?")
    assert target.ask("t2", b"!", first) == Replied(1, Status.OK, b"!")
    assert (bodies(target), impostor.receive()) == ([b"before", b"?"], [])
    impostor.close()


def test_t18_the_hello_of_a_new_incarnation_is_heard_though_the_broker_was_busy_when_the_old_one_died(
    brokers: Start, joined: Join
) -> None:
    """With a routing id that is used again it was lost every time."""
    broker = brokers()
    old = joined(broker, "t18")
    for generation in (2, 3, 4):
        broker.stop()
        old.close()
        new = Agent("t18", generation)
        new.connect(broker)
        new.turn()
        broker.death(old)
        broker.row(new)
        broker.resume()
        new.hears(Welcomed)
        old = new
    old.close()


def test_t4_t36_a_second_broker_is_refused_by_the_lock_and_steals_nobody(brokers: Start, joined: Join) -> None:
    first = brokers()
    thief = Broker(first.runtime)
    why = "two would take each other's agents; it must end first"
    holder = f"another broker, pid {first.pid}, holds {first.runtime}/broker.lock"
    assert thief.ended() == (1, f"{holder}: {why}\n")
    thief.channel.close()
    assert joined(first, "a").end.phase is Phase.LIVE


def test_t4_the_lock_of_a_broker_that_was_killed_is_free(brokers: Start) -> None:
    brokers().kill()
    assert brokers(generation=2).process.poll() is None


def test_t5_sockets_are_for_their_owner_alone_whatever_the_umask(brokers: Start) -> None:
    broker = brokers(prefix="umask 000")
    modes = [stat.S_IMODE(os.stat(broker.runtime / f"{broker.epoch}-{lane.value}").st_mode) for lane in Lane]
    assert modes == [0o700, 0o700]


def test_t5_a_socket_path_over_107_bytes_is_refused_with_its_length(runtime: Path) -> None:
    deep = runtime / ("d" * 100)
    deep.mkdir()
    broker = Broker(deep)
    path = f"{deep}/b7.1-s"
    assert broker.ended() == (1, f"expected a socket path of at most 107 bytes, got {len(path)}: {path}\n")
    broker.channel.close()


def test_t6_a_message_of_several_parts_is_a_strike_and_those_after_it_arrive(shared: Broker, joined: Join) -> None:
    sender, target = joined(shared, "t6"), joined(shared, "t6-target")
    assert sender.lanes is not None
    for count in (2, 50):
        sender.lanes._sockets[Lane.DATA].send_multipart([b"x" * 900] * count)
        sender.end.cast(Address("t6-target"), b"after %d" % count)
    target.until(lambda: bodies(target) == [b"after 2", b"after 50"], sender)
    strikes = [packet for packet in shared.hear(0.1) if packet[:3] == ["event", "strike", "t6"]]
    assert [packet[3]["count"] for packet in strikes] == [1, 2]


def test_t6_a_flood_of_empty_parts_holds_nobody_up(shared: Broker, joined: Join) -> None:
    flooder, asker, target = (joined(shared, f"t6-{name}") for name in ("flooder", "asker", "flooded"))
    assert flooder.lanes is not None
    flooder.lanes._sockets[Lane.DATA].send_multipart([b""] * 200_000)
    assert asker.ask("t6-flooded", b"?", target) == Replied(1, Status.OK, b"?")
    assert flooder.ask("t6-flooded", b"?", target) == Replied(1, Status.OK, b"?")


def test_t6_the_largest_message_arrives_whole_and_what_follows_it_too(shared: Broker, joined: Join) -> None:
    sender, target = joined(shared, "t6-large"), joined(shared, "t6-receiver")
    large = random.Random(6).randbytes(MAX_BODY)
    sender.end.cast(Address("t6-receiver"), large)
    sender.end.cast(Address("t6-receiver"), b"after")
    target.until(lambda: len(bodies(target)) == 2, sender)
    assert bodies(target) == [large, b"after"]


def test_t9_a_header_that_claims_8_gib_costs_no_memory_and_ends_its_connection(shared: Broker) -> None:
    process = psutil.Process(shared.pid)
    before = process.memory_info().vms
    raw = Raw(shared)
    raw.handshake(b"\1claims")
    raw.say(b"\x02" + (8 << 30).to_bytes(8, "big") + b"x" * 100)
    assert raw.closed()
    raw.close()
    assert process.memory_info().vms - before < 1 << 30


def test_t11_a_stopped_peer_is_neither_dead_nor_a_hole_for_memory(brokers: Start, joined: Join) -> None:
    broker = brokers()
    sender, watcher, stopped = joined(broker, "sender"), joined(broker, "watcher"), Agent("stopped")
    watcher.end.monitor("stopped")
    with Child(broker, stopped) as child:
        broker.row(stopped, pid=child.process.pid)
        assert child.line() == f"Welcomed(epoch='{broker.epoch}')"
        child.process.send_signal(signal.SIGSTOP)
        before = psutil.Process(broker.pid).memory_info().rss
        for _ in range(1000):
            sender.end.cast(Address("stopped"), b"x" * 64_000, confirm=True)
        sender.until(lambda: sum(isinstance(each, CastAccepted | CastRejected) for each in sender.heard) == 1000)
        assert psutil.Process(broker.pid).memory_info().rss - before < 24 * MIB
        watcher.end.ask("whereis", "stopped")
        (answer,) = watcher.hears(Answered)
        assert isinstance(answer.value, dict) and answer.value["state"] == "ready"
        assert not [each for each in watcher.heard if isinstance(each, Down)]
        accepted = sum(isinstance(each, CastAccepted) for each in sender.heard)
        child.process.send_signal(signal.SIGCONT)
        assert 0 < accepted < 100
        for _ in range(accepted):
            assert child.line().startswith("Delivered(source='sender'")


def test_t11_a_peer_whose_connection_is_gone_is_not_taken_for_dead_and_what_is_lost_is_counted(
    brokers: Start, joined: Join
) -> None:
    broker = brokers(watchdog=0.2)
    sender, vanished = joined(broker, "sender"), joined(broker, "vanished")
    vanished.close()
    sender.end.monitor("vanished")

    def unsent() -> list[object]:
        sender.end.cast(Address("vanished"), b"x")
        sender.turn()
        return [packet for packet in broker.hear(0.01) if packet[:2] == ["event", "unsent"]]

    assert eventually(unsent)
    sender.end.ask("whereis", "vanished")
    (answer,) = sender.hears(Answered)
    assert isinstance(answer.value, dict) and answer.value["state"] == "ready"
    assert not [each for each in sender.heard if isinstance(each, Down)]


def test_t14_bytes_of_zmtp_1_are_refused_before_they_are_a_message(shared: Broker) -> None:
    strikes = len([packet for packet in shared.hear() if packet[:2] == ["event", "strike"]])
    for lane in Lane:
        raw = Raw(shared, lane)
        raw.say(b"\x05\x00evil\x06\x00hello")
        assert raw.closed()
        raw.close()
    assert len([packet for packet in shared.hear(0.05) if packet[:2] == ["event", "strike"]]) == strikes


def test_t21_more_connections_than_the_soft_limit_of_descriptors_do_not_abort_it(brokers: Start, joined: Join) -> None:
    broker = brokers(prefix="ulimit -Sn 64")
    raws = [Raw(broker, lane) for lane in Lane for _ in range(100)]
    assert joined(broker, "late").end.phase is Phase.LIVE
    for raw in raws:
        raw.close()


def test_t22_what_a_killed_broker_took_along_is_bounded_by_credit_and_told_and_the_rest_arrives(
    brokers: Start, joined: Join
) -> None:
    """A broker that was slow takes thousands of messages along that ZeroMQ had accepted, and nobody hears of it."""
    first = brokers()
    sender, target = joined(first, "sender"), joined(first, "target")
    first.stop()
    for number in range(3000):
        sender.end.cast(Address("target"), b"%d" % number, confirm=True)
        sender.turn()
    first.kill()
    sender.lose()
    target.lose()
    lost = [each for each in sender.heard if isinstance(each, CastRejected)]
    assert {each.code for each in lost} == {"broker_lost"}
    assert len(lost) == 1024
    second = brokers(generation=2)
    second.snapshot(sender, target)
    target.connect(second)
    target.hears(Welcomed)  # else what is sent before its hello waits in its restart buffer, which takes 100
    sender.connect(second)
    target.until(lambda: len(bodies(target)) == 3000 - len(lost), sender)
    assert bodies(target) == [b"%d" % number for number in range(len(lost), 3000)]


def test_t30_nothing_of_an_agent_reaches_a_new_broker_but_through_fresh_sockets(brokers: Start, joined: Join) -> None:
    """No broker can see that a peer has reconnected by itself; so none does, and each one says hello."""
    first = brokers()
    agent, target = joined(first, "agent"), joined(first, "target")
    first.kill()
    second = brokers(generation=2)
    second.snapshot(agent, target)
    agent.end.cast(Address("target"), b"on old sockets")
    agent.turn()
    target.heard.clear()
    target.connect(second)
    target.hears(Welcomed)
    agent.turn()
    assert bodies(target) == []
    agent.connect(second)
    agent.end.cast(Address("target"), b"on fresh ones")
    target.until(lambda: bodies(target) == [b"on fresh ones"], agent)


def test_rubbish_from_strangers_and_from_agents_ends_no_broker(shared: Broker, joined: Join) -> None:
    source = random.Random(3)
    agent, other = joined(shared, "rubbish"), joined(shared, "other")
    assert agent.lanes is not None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    for lane in Lane:
        stranger.connect(f"{shared.endpoint}-{lane.value}")
    for _ in range(300):
        frame = source.randbytes(source.randrange(80))
        if source.random() < 0.7:
            frame = join(source.randrange(1, 6), source.randrange(3), [(1, 0, frame)], source.randrange(4))
        stranger.send(frame)
        lowlevel.send(agent.lanes._sockets[source.choice(list(Lane))], frame)
    assert len(agent.hears(Fenced)) == 1
    context.destroy(linger=0)
    other.end.ask("whereis", "other")
    (answer,) = other.hears(Answered)
    assert isinstance(answer.value, dict) and answer.value["state"] == "ready"
    assert shared.process.poll() is None


def test_a_connection_that_says_nothing_is_closed_soon(shared: Broker) -> None:
    """ZeroMQ alone would keep its descriptor for 30 s, longer than this waits."""
    raw = Raw(shared)
    assert raw.closed()
    raw.close()
