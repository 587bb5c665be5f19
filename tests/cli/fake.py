"""A control server with canned answers on a real socket, and the real `otpd` run against it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from otpd.ipc.frames import FrameReader, pack_frame
from otpd.supervisor.paths import node_paths

#: What an operation answers: a result, or a function that sends frames itself and gives back None or a result.
Answer = Any | Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], Any]
OTPD = [sys.executable, "-m", "otpd.cli.main"]
PROGRAM = '[programs.sleeper]\ncommand = ["sleep", "600"]\n'
CONFIG = f'[node]\nname = "shop"\n{PROGRAM}'
AT = 1_800_000_000.0


class Failed(Exception):
    """The operation answers with an error."""

    def __init__(self, code: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.answer = {"ok": False, "code": code, "error": error, "hint": hint, "done": True}


class FakeNode:
    """A directory with an otpd.toml; `listen` makes it a node that runs. `requests` has what was asked, in order."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runtime = home / "r"
        self.runtime.mkdir(mode=0o700)
        (home / "otpd.toml").write_text(CONFIG)
        self.answers: dict[str, Answer] = {
            "node": facts(), "tree": tree(), "status": lambda *_: workers(tree()["tree"]),
            "stats": fails(3, "there is no broker now to ask for stats"),
        }  # fmt: skip
        self.requests: list[dict[str, Any]] = []
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("OTPD_") and key != "NO_COLOR"}
        return {
            **kept, "XDG_RUNTIME_DIR": str(self.runtime), "COLUMNS": "200", "TERM": "xterm", "TZ": "UTC",
            "PYTHONIOENCODING": "utf-8",
        }  # fmt: skip

    @property
    def control(self) -> Path:
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(self.runtime)
        try:
            return node_paths(self.home / ".otpd").control
        finally:
            os.environ.pop("XDG_RUNTIME_DIR")
            if before is not None:
                os.environ["XDG_RUNTIME_DIR"] = before

    def listen(self) -> None:
        self.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.control))
        self._listener.listen(16)
        self._begin(self._accept)

    def hang_up(self) -> None:
        """Nobody listens any more and every connection ends, as when root is killed. Any thread may call it."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError, AttributeError):
                each.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def close(self) -> None:
        self.hang_up()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for each in (self._listener, *self._open):
            if each is not None:
                each.close()

    def otpd(self, *arguments: str, code: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """The real command line in this directory; asserts the exit code unless it is None."""
        env = {**self.env, **more.pop("env", {})}
        done = subprocess.run(
            [*OTPD, *arguments], cwd=more.pop("cwd", self.home), env=env, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL, **more,
        )  # fmt: skip
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.otpd(*arguments, "--json").stdout)

    def asked(self, op: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in request.items() if k != "op"} for request in self.requests if request["op"] == op]

    def _begin(self, run: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=run, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        reader = FrameReader(1 << 20)
        with contextlib.suppress(OSError):
            while chunk := connection.recv(1 << 16):
                for request in reader.feed(chunk):
                    self.requests.append(request)
                    self._answer(request, lambda value: connection.sendall(pack_frame(value)))

    def _answer(self, request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        answer = self.answers.get(request["op"])
        try:
            result = answer(request, send) if callable(answer) else answer
        except Failed as failed:
            send(failed.answer)
            return
        if result is not None:
            send({"ok": True, "result": result})


@contextlib.contextmanager
def fake_node(home: Path, running: bool = True) -> Iterator[FakeNode]:
    node = FakeNode(home)
    try:
        if running:
            node.listen()
        yield node
    finally:
        node.close()


def fails(code: int, error: str, hint: str = "") -> Answer:
    def answer(_request: dict[str, Any], _send: object) -> Any:
        raise Failed(code, error, hint)

    return answer


def sends(*frames: dict[str, Any]) -> Answer:
    """An answer of several frames."""

    def answer(_request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        for frame in frames:
            send(frame)

    return answer


def facts(**more: Any) -> dict[str, Any]:
    return {
        "name": "shop", "pid": 4711, "heart_pid": 4710, "version": "0.1.0", "started_at": AT, "uptime_s": 754.25,
        "state": "running", "config": "/srv/shop/otpd.toml", "state_dir": "/srv/shop/.otpd", "runtime_dir": "/run/otpd/x",
        "ladder": "subreaper", "children": 3, **more,
    }  # fmt: skip


def worker(name: str, path: str = "", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "path": path or name, "type": "worker", "kind": "agent", "state": "running", "pid": 4720,
        "generation": 1, "restarts": 0, "uptime_s": 750.0, "restart": "permanent", "last_exit": None,
        "next_attempt_s": None, "what": None, "group": None, "runtime": False, **more,
    }  # fmt: skip


def supervisor(name: str, path: str, children: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "name": name, "path": path, "type": "supervisor", "state": "running", "strategy": "one_for_one",
        "max_restarts": 3, "max_seconds": 5, "restarts_in_window": 0, "restarts": 0, "generation": 1,
        "restart": "permanent", "next_attempt_s": None, "what": None, "children": children, **more,
    }  # fmt: skip


def tree() -> dict[str, Any]:
    """A supervisor with a worker that runs and one that waits, and one that has failed beside it."""
    ended = {"reason": "error(1)", "status": 1, "signal": None, "at": AT - 2}
    killed = {"reason": "killed", "status": None, "signal": 9, "at": AT - 90}
    pricing = supervisor(
        "pricing", "pricing", [
            worker("feed", "pricing/feed", generation=3, restarts=2, uptime_s=12.5, last_exit=killed),
            worker(
                "calc", "pricing/calc", state="backoff", pid=None, generation=9, restarts=8, uptime_s=None,
                last_exit=ended, next_attempt_s=2.125, what="error(1)",
            ),
        ], strategy="rest_for_one", restarts_in_window=1,
    )  # fmt: skip
    web = worker(
        "web", kind="program", state="failed", pid=None, uptime_s=None, what="gunicorn: command not found"
    )  # fmt: skip
    node = {key: facts()[key] for key in ("name", "pid", "heart_pid", "version", "started_at", "uptime_s")}
    top = supervisor("shop", "", [pricing, web], max_restarts=None)
    return {"schema": "otpd/1", "node": node, "tree": top}


def wide_tree(count: int) -> dict[str, Any]:
    found = tree()
    found["tree"]["children"] = [
        supervisor(f"s{at}", f"s{at}", [worker(f"w{at}-{n}", f"s{at}/w{at}-{n}", pid=10_000 + n) for n in range(10)])
        for at in range(count // 10)
    ]
    return found


def workers(node: dict[str, Any]) -> list[dict[str, Any]]:
    if node["type"] == "worker":
        return [node]
    return [row for child in node["children"] for row in workers(child)]
