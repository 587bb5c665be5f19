"""Readiness (T54): a dependent starts after its dependency is ready, however that is found; never ready is a failure."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from typing import Any

import pytest

from tests.e2e.node import Node, gone, node
from tests.e2e.others import needs_root
from tests.helpers import eventually

NOTIFY = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
)
GATE = "until [ -e go ]; do sleep 0.02; done; "
#: Answers 503 until the file `go` is there.
HTTP = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("go") else 503)
        self.end_headers()
    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TCP = """
import os, socket, sys, time
while not os.path.exists("go"):
    time.sleep(0.02)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""
#: Notifies from a process whose parent, the main process, only waits for it.
GRANDCHILD = f"""
import os, subprocess, sys, time
while not os.path.exists("go"):
    time.sleep(0.02)
subprocess.run([sys.executable, "-c", {NOTIFY + "; import time; time.sleep(1000)"!r}])
"""
MAIN = f"""
import os, time
while not os.path.exists("go"):
    time.sleep(0.02)
{NOTIFY}
time.sleep(1000)
"""
FILES = {"main.py": MAIN, "http_server.py": HTTP, "tcp_server.py": TCP, "grandchild.py": GRANDCHILD}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def begin(n: Node) -> None:
    """Start without waiting for anybody to be ready."""
    n.otpd("start", "--detach", "--timeout", "1ms", check=None)
    eventually(n.answers)


def starting(n: Node, name: str) -> dict[str, Any]:
    """Its row once its process is there."""
    row: dict[str, Any] = eventually(lambda: next((r for r in n.ask("status") if r["name"] == name and r["pid"]), None))
    assert row["state"] == "starting"
    return row


def pair(command: list[str], ready: str, **more: str) -> str:
    """A dependency and what comes after it."""
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f"""
[supervisors.s]
strategy = "rest_for_one"
[programs.first]
command = {json.dumps(command)}
supervisor = "s"
ready = {ready}
{lines}
[agents.second]
script = "idle.py"
supervisor = "s"
"""


def order(n: Node) -> list[tuple[str, str]]:
    """What happened to the two, in order."""
    kinds = ("otpd.child.started", "otpd.child.start_failed", "otpd.child.exited")
    return [(each["name"], each["event"].removeprefix("otpd.child.")) for each in n.events() if each["event"] in kinds]


NOTIFIES = {
    "a child of a shell": shell(f'{GATE} "{sys.executable}" -c "{NOTIFY}"; exec sleep 1000'),
    "the main process": python("main.py"),
    "a grandchild": python("grandchild.py"),
}


@pytest.mark.parametrize("who", NOTIFIES)
def test_ready_by_sd_notify_and_only_then_the_next_one_starts(who: str) -> None:
    """T54: also from below the main process, told by the cookie of its environment."""
    with node(pair(NOTIFIES[who], '"notify"'), FILES, start=False) as n:
        _comes_after(n)


@pytest.mark.parametrize("kind", ["tcp", "http", "exec"])
def test_ready_by_a_probe_and_only_then_the_next_one_starts(kind: str) -> None:
    """T54."""
    port = free_port()
    command, ready = {
        "tcp": (python("tcp_server.py", str(port)), f"{{ tcp = {port} }}"),
        "http": (python("http_server.py", str(port)), f'{{ http = "http://127.0.0.1:{port}/health" }}'),
        "exec": (["sleep", "1000"], '{ exec = ["test", "-e", "go"] }'),
    }[kind]
    with node(pair(command, ready), FILES, start=False) as n:
        _comes_after(n)


def _comes_after(n: Node) -> None:
    begin(n)
    row = starting(n, "first")
    assert row["pid"] is not None
    second = n.worker("second")
    assert (second["state"], second["pid"], second["generation"]) == ("starting", None, 0)
    assert order(n) == []
    n.write("go", "")
    n.otpd("status", "--wait", "ready", "--timeout", "20s")
    assert order(n) == [("first", "started"), ("second", "started")]
    assert n.worker("first")["pid"] == row["pid"]


def test_spawned_is_ready_as_soon_as_it_runs_and_a_missing_program_never_is() -> None:
    """T9: the failed start is told with its reason, and the dependent has never started."""
    with node(pair(["sleep", "1000"], '"spawned"')) as n:
        assert order(n) == [("first", "started"), ("second", "started")]
    with node(pair(["./gone"], '"spawned"'), {"gone": "#!/nowhere/interpreter\n"}, start=False) as n:
        (n.home / "gone").chmod(0o755)
        n.start(1, "--timeout", "5s")
        assert ("second", "started") not in order(n)
        assert "/nowhere/interpreter" in n.otpd("why", "first").stdout + n.otpd("status", "first").stdout


def test_a_forged_notification_is_ignored() -> None:
    """T54: from a stranger with the socket's path, and from another child of the same node, which speaks for itself only."""
    everywhere = "import glob, os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    everywhere += "d = os.path.dirname(os.environ['NOTIFY_SOCKET']); "
    everywhere += "[s.sendto(b'READY=1', path) for path in glob.glob(d + '/notify.*')]; "
    everywhere += "import time; time.sleep(0.2)"  # so that it lives when it is heard, and can be asked who it is
    forge = f'while :; do "{sys.executable}" -c "{everywhere}"; echo forged; done'
    config = f"""
        [programs.forger]
        command = {json.dumps(shell(forge))}
        ready = "notify"
        [programs.first]
        command = ["sleep", "1000"]
        ready = "notify"
        start_timeout = "60s"
    """
    with node(config, start=False) as n:
        begin(n)
        row = starting(n, "first")
        paths = list((n.runtime / "otpd").glob("*/notify.*"))
        assert len(paths) == 2
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for message in (b"READY=1", b"READY=1\nMAINPID=%d" % row["pid"], b"\xff\x00rubbish", b"", b"WATCHDOG=1"):
                for path in paths:
                    stranger.sendto(message, str(path))
        heard = n.log("forger").count("forged")
        eventually(lambda: n.printed("forger").count("forged") > heard + 1)
        assert n.states() == {"forger": "running", "first": "starting"}
        assert n.worker("forger")["generation"] == 1


def test_who_is_not_ready_in_time_is_ended_and_tried_again_with_its_back_off() -> None:
    """Tests 25 and 26: start_timeout; nothing of the attempt is left, the reason says so, and ready twice is ready once."""
    config = pair(shell('trap "" TERM; echo up; sleep 1000'), '"notify"', start_timeout='"300ms"', shutdown='"200ms"')
    with node(config, start=False) as n:
        begin(n)
        failed = eventually(lambda: [each for each in n.events() if each["event"] == "otpd.child.start_failed"])
        assert (failed[0]["name"], failed[0]["reason"]) == ("first", "not ready within 0.3 s")
        assert ("second", "started") not in order(n)
        again = eventually(lambda: [each for each in n.events() if each["event"] == "otpd.restart.scheduled"])
        assert again[0]["name"] == "s"
        death = n.json("why", "first")["deaths"][-1]
        assert (death["cause"], death["signal"]) == ("not ready within 0.3 s", 9)
        assert len([p for p in n.processes() if "sleep 1000" in " ".join(p.cmdline())]) <= 2
    twice = shell(f'"{sys.executable}" -c "{NOTIFY}"; "{sys.executable}" -c "{NOTIFY}"; echo done; exec sleep 1000')
    with node(pair(twice, '"notify"')) as n:
        eventually(lambda: "done" in n.printed("first"))
        assert order(n) == [("first", "started"), ("second", "started")]


def test_who_dies_before_it_is_ready_has_failed_to_start() -> None:
    """Test 26."""
    config = pair(shell("echo dying; exit 7"), '"notify"')
    with node(config, start=False) as n:
        begin(n)
        failed: list[dict[str, Any]] = eventually(
            lambda: [each for each in n.events() if each["event"] == "otpd.child.start_failed"]
        )
        assert (failed[0]["name"], failed[0]["reason"]) == ("first", "error(7)")
        assert ("second", "started") not in order(n)


def test_a_stop_while_nobody_is_ready_ends_at_once() -> None:
    """T24: the start of the first is given up; nothing else has ever started."""
    with node(pair(["sleep", "1000"], '"notify"', start_timeout='"60s"'), start=False) as n:
        begin(n)
        pid = starting(n, "first")["pid"]
        n.stop()
        assert gone(pid)
        assert not n.answers()


def test_a_notification_counts_though_its_sender_has_exited_before_it_is_read() -> None:
    """T54: readiness can't be lost; the usual `python -c notify` or `sd_notify && exit` on a busy machine."""
    command = shell(f'{GATE} "{sys.executable}" -c "{NOTIFY}"; touch sent; exec sleep 1000')
    config = f'[programs.first]\ncommand = {json.dumps(command)}\nready = "notify"\nstart_timeout = "60s"\n'
    with node(config, start=False) as n:
        begin(n)
        starting(n, "first")
        root = n.facts()["pid"]
        n.kill(root, 19)
        try:
            n.write("go", "")
            eventually((n.home / "sent").exists)
        finally:
            n.kill(root, 18)
        n.when("first", 2.0, state="running")


@needs_root
@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="needs a Python that every user may run")
def test_a_program_of_another_user_reaches_the_notify_socket() -> None:
    """T54: the node's directory is closed to it, so its $NOTIFY_SOCKET is an abstract one."""
    notify = NOTIFY.replace("os.environ['NOTIFY_SOCKET']", "os.environ['NOTIFY_SOCKET'].replace('@', chr(0), 1)")
    command = ["/usr/bin/python3", "-c", f"{notify}; import time; time.sleep(1000)"]
    with node(pair(command, '"notify"', user='"nobody"', cwd='"/"'), start=False) as n:
        n.start()
        assert order(n) == [("first", "started"), ("second", "started")]
        assert os.stat(f"/proc/{n.pid('first')}").st_uid == pwd.getpwnam("nobody").pw_uid


def test_of_several_that_are_awaited_at_once_none_is_lost_or_mistaken_for_another() -> None:
    """T54: each speaks on a socket of its own, so it does not matter that all the senders have exited."""
    command = shell(f'{GATE} "{sys.executable}" -c "{NOTIFY}"; touch "sent.$OTPD_CHILD"; exec sleep 1000')
    mute = shell(f'{GATE} touch "sent.$OTPD_CHILD"; exec sleep 1000')
    config = "".join(
        f"""
        [supervisors.s-{name}]
        [programs.{name}]
        command = {json.dumps(mute if name == "mute" else command)}
        supervisor = "s-{name}"
        ready = "notify"
        start_timeout = "60s"
        """
        for name in ("a", "b", "mute")
    )
    with node(config, start=False) as n:
        begin(n)
        starting(n, "a")
        n.write("go", "")
        starting(n, "mute")
        (n.home / "go").unlink()
        for name in ("a", "b"):
            sent = n.home / f"sent.{name}"
            eventually(sent.exists)
            sent.unlink()
            n.kill(n.pid(name))
        for name in ("a", "b"):
            n.when(name, state="restarting", generation=2)
        n.kill(n.pid("mute"))
        root = n.facts()["pid"]
        n.kill(root, 19)
        try:
            n.write("go", "")
            for name in ("a", "b"):
                eventually((n.home / f"sent.{name}").exists)
        finally:
            n.kill(root, 18)
        for name in ("a", "b"):
            n.when(name, 2.0, state="running", generation=2)
        assert n.worker("mute")["state"] != "running"
