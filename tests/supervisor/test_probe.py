"""Readiness probes against real sockets."""

from __future__ import annotations

import http.server
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from otpd.supervisor import probe
from otpd.supervisor.spec import ExecReady, HttpReady, TcpReady


def attempt(ready: TcpReady) -> str | None:
    made = probe.TcpAttempt(ready)
    try:
        poll = select.poll()
        poll.register(made.fileno(), select.POLLOUT)
        poll.poll(5000)
        return made.result()
    finally:
        made.close()


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_listening_port_is_ready(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert attempt(TcpReady(port=server.getsockname()[1], host=host)) is None


def test_a_closed_port_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert attempt(TcpReady(port=port)) == "Connection refused"


def test_an_attempt_under_way_is_not_known_yet() -> None:
    """A listener whose backlog is full keeps a connection waiting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        ready = TcpReady(port=server.getsockname()[1])
        made = [probe.TcpAttempt(ready) for _ in range(4)]
        results = [each.result() for each in made]
        for each in made:
            each.close()
    assert "" in results


def test_names_are_left_to_a_process() -> None:
    assert [probe.is_numeric(host) for host in ("::1", "10.0.0.1", "localhost", "db.internal")] == [
        True,
        True,
        True,
        False,
    ]


def test_the_command_of_each_kind() -> None:
    python = (sys.executable, "-P", "-m", "otpd.supervisor.probe")
    assert probe.probe_argv(ExecReady(argv=("pg_isready", "-q"))) == ("pg_isready", "-q")
    assert probe.probe_argv(HttpReady(url="http://a/b")) == (*python, "http", "http://a/b")
    assert probe.probe_argv(TcpReady(port=5432, host="db")) == (*python, "tcp", "db", "5432")


@pytest.mark.parametrize(("status", "ready"), [(200, True), (204, True), (302, True), (404, False), (503, False)])
def test_http_status_decides(server: http.server.HTTPServer, status: int, ready: bool) -> None:
    url = f"http://127.0.0.1:{server.server_port}/{status}"
    assert probe.http(url) == (None if ready else f"{url}: status {status}")


def test_as_a_process_it_exits_with_the_answer_and_says_what_came(server: http.server.HTTPServer) -> None:
    base = f"http://127.0.0.1:{server.server_port}"
    runs = [
        subprocess.run(probe.probe_argv(HttpReady(url=base + path)), capture_output=True, text=True)
        for path in ("/200", "/500")
    ]
    assert [(run.returncode, run.stderr) for run in runs] == [(0, ""), (1, f"{base}/500: status 500\n")]


@pytest.mark.parametrize(
    ("argv", "status"),
    [(["tcp", "127.0.0.1", "1"], 1), (["http", "ftp://x"], 1), (["what"], 2), (["tcp", "h", "x"], 2)],
)
def test_wrong_use_and_failure_have_a_status(argv: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(argv) == status
    assert capsys.readouterr().err
