"""Router and endpoint speak the same protocol: two endpoints and a router, without sockets."""

from __future__ import annotations

from otpd.ipc.endpoint import WINDOW_MESSAGES, Address, Endpoint
from otpd.ipc.happenings import CallFailed, Delivered, Down, EventReceived, Gap, Happening, Replied, Welcomed
from otpd.ipc.router import Router, Send
from otpd.ipc.wire import Status

LIFE = 1 << 32
NOW = 10**12


class Wires:
    """Carries frames at once, both ways, until nobody has any."""

    def __init__(self, *names: str) -> None:
        self.router = Router("b1.1")
        self.ends = {name.encode().ljust(16): Endpoint(name, LIFE | 1, name.encode()) for name in names}
        self.router.root(["snapshot", "b1.1"], NOW)
        for pid, (identity, end) in enumerate(self.ends.items()):
            row = {"name": end.name, "kind": "agent", "inc": end.inc, "pid": pid, "state": "ready"}
            self.router.root(["row", row | {"identity": identity, "token": end.name.encode()}], NOW)
        self.router.root(["snapshot_end"], NOW)
        for end in self.ends.values():
            end.connected("b1.1", NOW)
        self.carry()

    def __getitem__(self, name: str) -> Endpoint:
        return self.ends[name.encode().ljust(16)]

    def carry(self) -> None:
        moved = True
        while moved:
            moved = False
            for pid, (identity, end) in enumerate(self.ends.items()):
                for lane, frame in end.outgoing():
                    self.router.frame(identity, lane, frame, NOW, pid)
                    moved = True
            for effect in self.router.flush():
                if isinstance(effect, Send):
                    self.ends[effect.peer].received(effect.lane, effect.frame, NOW)
                    moved = True

    def happened(self, name: str) -> list[Happening]:
        self.carry()
        found = list(self[name].happened)
        self[name].happened.clear()
        return found


def test_they_agree_on_hello_call_reply_and_failure() -> None:
    wires = Wires("a", "b")
    assert wires.happened("a") == [Welcomed("b1.1")]
    a, b = wires["a"], wires["b"]
    request = a.call(Address("b"), b"?", NOW + 10, NOW)
    *_, delivered = wires.happened("b")
    assert isinstance(delivered, Delivered) and (delivered.source, delivered.body) == ("a", b"?")
    assert delivered.call is not None
    b.reply(delivered.call, Status.OK, b"!")
    assert wires.happened("a") == [Replied(request, Status.OK, b"!")]
    request = a.call(Address("nobody"), b"?", NOW + 10, NOW)
    (failed,) = wires.happened("a")
    assert isinstance(failed, CallFailed) and (failed.request, failed.code, failed.executed) == (request, "noproc", "no")


def test_they_agree_on_credit_through_ten_thousand_casts() -> None:
    wires = Wires("a", "b")
    got = 0
    for round_ in range(100):
        for number in range(100):
            wires["a"].cast(Address("b"), b"%d" % (100 * round_ + number))
        while delivered := [each for each in wires.happened("b") if isinstance(each, Delivered)]:
            assert [int(each.body) for each in delivered] == list(range(got, got + len(delivered)))
            got += len(delivered)
            wires["b"].handled(len(delivered), sum(len(each.body) for each in delivered))
    assert got == 10_000 and wires.router.counts().casts == 10_000 and wires["b"].malformed == 0


def test_they_agree_that_a_death_comes_after_what_the_dead_one_published_and_that_the_rest_is_a_gap() -> None:
    wires = Wires("a", "b")
    a, b = wires["a"], wires["b"]
    a.monitor("b")
    topics = a.subscribe("b.*")
    wires.carry()
    for _ in range(2000):
        b.publish("b.news", b"{}")
    wires.happened("b")
    wires.router.root(["death", "b", LIFE | 1, "killed"], NOW)
    wires.router.tick(NOW + 10**9)
    kinds: list[type[Happening]] = []
    gaps = 0
    while Down not in kinds:
        happened = wires.happened("a")
        assert happened, f"stuck after {len(kinds)}"
        kinds += [type(each) for each in happened]
        gaps += sum(each.count for each in happened if isinstance(each, Gap) and each.ref == topics)
        for each in happened:
            if isinstance(each, EventReceived):
                a.handled(1, len(each.body))
    assert kinds.count(EventReceived) + gaps == 2000 and gaps == 2000 - WINDOW_MESSAGES - 1000
    assert kinds[-1] is Down and a.malformed == 0
