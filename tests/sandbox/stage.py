"""The scenery of an attack: directories to break out of, secrets to find, neighbours to hurt, sockets to reach."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from otpd.agents.sandbox import kernel

IMPOSTORS = ("bwrap", "python3", "prlimit", "setpriv", "unshare", "nsjail", "sh", "env", "newuidmap")


class Stage:
    """For one case. `values` fills the placeholders; `close` tears it all down."""

    def __init__(self, home: Path, run: Path, owner: int | None, host: dict[str, str], *, shared: bool = False) -> None:
        """`owner`: uid of the granted directory, None for one's own. `host`: placeholders of the whole run of a corpus.

        `shared`: the granted directory is open to everybody, for a backend that can't map owners.
        """
        self.token = secrets.token_hex(6)
        self.base = Path(tempfile.mkdtemp(prefix="case-", dir=home))
        self.base.chmod(0o755)
        self.listeners = Listeners(self.base, run, self.token)
        self.workspace, self.host, self.read_only = self.base / "ws", self.base / "host", self.base / "ro"
        secret = f"secret-{secrets.token_hex(8)}"
        self._furnish(secret, owner, shared)
        self.values = {
            "TOKEN": self.token, "WS": str(self.workspace), "HOST": str(self.host), "RO": str(self.read_only),
            "SECRET": secret,
            "RUNSECRET": f"run-{secrets.token_hex(8)}", "HEX": secrets.token_hex(3), "LPORT": str(free_port()),
            "X3M": "x" * 3_000_000, **self.listeners.values, **host,
        }  # fmt: skip

    def _furnish(self, secret: str, owner: int | None, shared: bool) -> None:
        hooks = self.workspace / ".git" / "hooks"
        for directory in (hooks, self.workspace / "sub", self.workspace / "bin", self.host):
            directory.mkdir(parents=True)
        (hooks / "pre-commit").write_text("orig")
        for name in IMPOSTORS:
            program = self.workspace / "bin" / name
            program.write_text(f"#!/bin/sh\necho pwn > {self.host}/pathpwn\n")
            program.chmod(0o755)
        self.host.chmod(0o777)
        (self.host / "keep.txt").write_text("keep")
        (self.host / "secret.txt").write_text(secret)
        for path in self.host.iterdir():
            path.chmod(0o644)
        (self.read_only / "lockme").write_text("lock me")
        for path in (self.workspace, *self.workspace.rglob("*")):
            if owner is not None:
                os.chown(path, owner, owner)
            if shared:
                path.chmod(path.stat().st_mode | 0o666 | (0o111 if path.is_dir() else 0))

    def close(self) -> None:
        self.listeners.close()
        remove(self.base)


def remove(directory: Path) -> None:
    """With all that an attack has made of it: shutil.rmtree ends at 1,000 directories below each other, rm at none."""
    if _quietly("rm", "-rf", directory):
        _quietly("chmod", "-R", "u+rwx", directory)
        subprocess.run(["rm", "-rf", directory], check=True)


def _quietly(*command: str | Path) -> int:
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listeners:
    """Sockets that nobody in a sandbox may reach, and whether somebody has."""

    def __init__(self, base: Path, run: Path, token: str) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self.reached: set[str] = set()
        self._end, self._ended = os.pipe()
        (base / "ro").mkdir()
        (base / "private").mkdir()
        abstract = f"otpd-listener-{token}"
        runtime = run / f"otpd-{token}.sock"
        self._paths = [base / "ro" / "svc.sock", base / "private" / "broker.sock", runtime]
        self._listen("tcp", socket.AF_INET, ("127.0.0.1", 0))
        self._listen("udp", socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            self._listen("tcp6", socket.AF_INET6, ("::1", 0))
        self._listen("abstract", socket.AF_UNIX, f"\0{abstract}")
        for name, path in zip(("ro_unix", "unix", "run_unix"), self._paths, strict=True):
            self._listen(name, socket.AF_UNIX, str(path))
            path.chmod(0o777)
        port = {name: str(self._sockets[name].getsockname()[1]) for name in ("tcp", "tcp6", "udp") if name in self._sockets}
        self.values = {
            "PORT": port["tcp"], "PORT6": port.get("tcp6", "1"), "UDP": port["udp"], "ABS": abstract,
            "SOCK": str(self._paths[1]), "RUNSOCK": str(runtime),
        }  # fmt: skip
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _listen(self, name: str, family: int, address: Any, kind: int = socket.SOCK_STREAM) -> None:
        made = socket.socket(family, kind)
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen()
        self._sockets[name] = made

    def _accept(self) -> None:
        names = {made.fileno(): name for name, made in self._sockets.items()}
        while True:
            found = select.select([*names, self._end], [], [])[0]
            if self._end in found:
                return
            for fd in found:
                self.reached.add(names[fd])
                made = self._sockets[names[fd]]
                with contextlib.suppress(OSError):
                    made.recv(1) if made.type == socket.SOCK_DGRAM else made.accept()[0].close()

    def close(self) -> None:
        os.close(self._ended)
        self._thread.join(60)
        for made in self._sockets.values():
            made.close()
        os.close(self._end)
        for path in self._paths:
            path.unlink(missing_ok=True)


class Victim:
    """A process of the sandbox's own uid, which no command may touch. A secret in its arguments and environment."""

    def __init__(self, uid: int | None) -> None:
        self.secret = f"ps-{secrets.token_hex(8)}"
        self._uid = uid
        self.process: subprocess.Popen[bytes] | None = None
        self.before: tuple[Any, ...] = ()
        self.revive()

    def revive(self) -> None:
        """A new one, if it was hurt."""
        if self.process is not None and self.ok() == "":
            return
        self.close()
        env = {"VICTIM_SECRET": self.secret, "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", "while :; do sleep 3600; done", self.secret], env=env, user=self._uid, group=self._uid,
            extra_groups=[] if self._uid is not None else None, start_new_session=True, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL),
        )  # fmt: skip
        self.before = self._look()

    def _look(self) -> tuple[Any, ...]:
        assert self.process is not None
        pid = self.process.pid
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (
            state[0] in "SRD", Path(f"/proc/{pid}/oom_score_adj").read_text(), Path(f"/proc/{pid}/limits").read_text(),
            os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid),
        )  # fmt: skip

    def ok(self) -> str:
        """Why it is not as it was; "" if it is."""
        assert self.process is not None
        if self.process.poll() is not None:
            return "the victim is dead"
        now = self._look()
        return "" if now == self.before else f"the victim has changed: {self.before} -> {now}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def close(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Sampler:
    """Looks at everything beneath this process every few milliseconds: the most tasks, the most memory."""

    def __init__(self) -> None:
        self.tasks = 0
        self.memory = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            tasks = memory = 0
            for pid in beneath(os.getpid()):
                with contextlib.suppress(OSError, ValueError):
                    status = dict(
                        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
                    )
                    tasks += int(status["Threads"])
                    memory += sum(int(status.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
            self.tasks, self.memory = max(self.tasks, tasks), max(self.memory, memory)


def beneath(top: int) -> list[int]:
    """pids of all that descends from `top`."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [top]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


def marked(token: str) -> list[int]:
    """Processes that carry the mark of a run, in their environment or arguments. This one is not meant."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                said = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
                if token.encode() in said:
                    found.append(int(name))
    return found


def gone(token: str, seconds: float = 3.0) -> list[int]:
    """Those that are still there after a while."""
    end = time.monotonic() + seconds
    while (left := marked(token)) and time.monotonic() < end:
        time.sleep(0.02)
    return left
