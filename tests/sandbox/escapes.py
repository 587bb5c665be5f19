"""Runs an attack corpus against the command pool and looks from outside whether anything got out. See scripts/escapes."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import resource
import secrets
import signal
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otpd.agents.sandbox import Capability, Pool, PoolSettings, Result, Run, cgroup, kernel
from tests.sandbox import checks, corpus
from tests.sandbox.checks import Evidence
from tests.sandbox.corpus import Case, Corpus, Filled, Verdict
from tests.sandbox.expose import expose
from tests.sandbox.stage import Sampler, Stage, Victim, gone, remove

#: An ordinary user that no account is, for `--as user` by root.
USER = 61_000
#: The uids of slots: apart from those of any pool that may be running on this machine, and of other players.
SLOTS = 210_000
#: Around the whole runner: what all attacks together may use of the machine.
MEMORY, TASKS = 3 * 2**30, 800
_CASE_TIMEOUT = 60.0
_TRIES = 5


@dataclass(frozen=True)
class Options:
    file: Path
    backend: str
    launcher: str | None
    only: tuple[str, ...]
    user: bool  # drop to an ordinary uid
    jobs: int


class Player:
    """Plays cases with one pool, as whoever it is."""

    def __init__(self, options: Options, corpus_: Corpus, home: Path, run: Path, number: int) -> None:
        self._options, self._corpus, self._home, self._run = options, corpus_, home, run
        root = os.geteuid() == 0
        slots = SLOTS + 8 * number
        self._owner = USER if root else None
        self._settings = PoolSettings(
            workers=2, backend=options.backend, slot_uids=(slots, slots + 7), queue_timeout=60.0, max_per_caller=64
        )
        self._terminal = _own_terminal()
        self._host, self._stdin_flags = _secrets(home)
        self._pool = Pool(self._settings, launcher=options.launcher)
        self._victim = Victim(slots if root else None)
        self._host |= {"VICTIM": str(self._victim.pid), "PSSECRET": self._victim.secret}

    def close(self) -> None:
        self._pool.close()
        self._victim.close()

    def capability(self) -> Capability:
        return self._pool.capability()

    def play(self, case: Case) -> Verdict:
        """Again, if its time was over before it had begun: that says only that the machine is busy."""
        for _ in range(_TRIES - 1):
            verdict = self._play(case)
            if corpus.NOT_BEGUN not in verdict.why or verdict.kind != "killed:timeout":
                return verdict
        return self._play(case)

    def _play(self, case: Case) -> Verdict:
        self._victim.revive()
        self._host["VICTIM"] = str(self._victim.pid)
        shared = self._owner is not None and "mntns" not in self.capability().layers
        stage = Stage(self._home, self._run, self._owner, self._host, shared=shared)
        began = time.monotonic()
        seen = Evidence(stage, self._victim, self._terminal, self._stdin_flags, checks.sysvipc())
        try:
            filled = corpus.fill(self._corpus, case, stage.values)
            with Sampler() as seen.sampler:
                why = self._perform(filled, seen)
            why += list(self._aftermath(filled, seen))
        finally:
            stage.close()
        assert seen.result is not None
        return _verdict(filled, seen.result, why, time.monotonic() - began)

    def _perform(self, filled: Filled, seen: Evidence) -> list[str]:
        background: list[Run] = []
        for step in filled.steps[:-1]:
            run = self._start(step)
            if step.background:
                background.append(run)
            else:
                run.result(_CASE_TIMEOUT)
        for _ in range(filled.table.get("repeat", 1)):
            began = time.monotonic()
            why = self._attack(filled, seen)
            seen.wall = time.monotonic() - began
        for run in background:
            run.cancel()
            run.result(_CASE_TIMEOUT)
        return why

    def _start(self, step: corpus.Step) -> Run:
        lane = f"lane-{step.lane}" if step.lane else ""
        return self._pool.start(step.argv, profile=step.profile, env=step.env, cwd=step.cwd, stdin=step.stdin, tenant=lane)

    def _attack(self, filled: Filled, seen: Evidence) -> list[str]:
        run = self._start(filled.attack)
        during = filled.table.get("during")
        why: list[str] = []
        if isinstance(during, dict):
            with contextlib.suppress(TimeoutError):
                run.result(during["kill_adapter_at"])
            _await_heartbeats(filled, run)
            for pid in self._pool.workers():
                os.kill(pid, signal.SIGKILL)
        elif during is not None:
            with contextlib.suppress(TimeoutError):
                run.result(during)
            why += checks.failed(_checks(filled), seen, during=True)
        seen.result = run.result(_CASE_TIMEOUT)
        return why

    def _aftermath(self, filled: Filled, seen: Evidence) -> Iterator[str]:
        """The checks of the case, and those that hold after every case."""
        assert seen.result is not None
        yield from checks.failed(_checks(filled), seen, during=False)
        kind = corpus.kind_of(seen.result)
        if not corpus.acceptable(kind, filled.table):
            yield f"class {kind}, expected {filled.table['expect']}"
        if not_run := corpus.has_run(seen.result, filled.table, seen.stage.token):
            yield not_run
        answer = self._pool.run(["echo", "pool-ok"])
        if answer.stdout != b"pool-ok\n":
            yield f"the pool does not answer: {answer.summary()}"
        if left := gone(seen.stage.token):
            yield f"processes are left: {left}"


def _await_heartbeats(filled: Filled, run: Run) -> None:
    """On a machine that is busy the attack may not have begun when its time has come: what is killed then proves nothing."""
    wanted = [Path(check["file"]) for check in _checks(filled) if check["kind"] == "heartbeat_stopped"]
    end = time.monotonic() + _CASE_TIMEOUT
    while not all(path.exists() for path in wanted) and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            run.result(0.05)
            return


def _checks(filled: Filled) -> list[dict[str, Any]]:
    return list(filled.table.get("check", []))


def _verdict(filled: Filled, result: Result, why: Sequence[str], seconds: float) -> Verdict:
    outcome = "escaped" if why else "refused" if result.status == "refused" else "contained"
    said = (result.stdout + result.stderr).decode(errors="replace")[-600:]
    case = filled.case
    note = result.summary() if result.status in ("exited", "signaled", "killed") else f"{result.summary()} {result.hint}"
    return Verdict(
        case.id, case.severity, outcome, corpus.kind_of(result), tuple(why), seconds, f"{note}\n{said}" if why else note
    )


def _own_terminal() -> int:
    """This process gets a terminal of its own, into which an attack may try to type. A descriptor of it."""
    _, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.set_inheritable(slave, True)
    return slave


def _secrets(home: Path) -> tuple[dict[str, str], int]:
    """In the environment, in an open file, on standard input: what a careless pool hands on."""
    found = {name: f"{name.lower()}-{secrets.token_hex(8)}" for name in ("ENVSECRET", "FDSECRET", "STDINSECRET")}
    os.environ["OTPD_TEST_SECRET"] = found["ENVSECRET"]
    path = home / f"fd-{secrets.token_hex(4)}"
    path.write_text(found["FDSECRET"])
    os.set_inheritable(os.open(path, os.O_RDONLY), True)
    ours, theirs = os.pipe()
    os.write(theirs, found["STDINSECRET"].encode() * 10)
    os.dup2(ours, 0)
    return found, fcntl.fcntl(0, fcntl.F_GETFL)


# --- the process around the players ---


def main(arguments: Sequence[str]) -> int:
    options, as_json = _options(arguments)
    loaded = corpus.load(options.file)
    cases = [case for case in loaded.cases if not options.only or any(word in case.id for word in options.only)]
    if not cases:
        print(f"no case of {options.file} has {' or '.join(options.only)} in its id", file=sys.stderr)
        return 2
    home, run = _places(options)
    try:
        verdicts, table = _play_all(options, loaded, cases, home, run, quiet=as_json)
    finally:
        for directory in {home, run}:
            remove(directory)
    _report(verdicts, table, as_json)
    missing = {case.id for case in cases} - {verdict.id for verdict in verdicts}
    if missing:
        print(f"not played, because a player ended early: {', '.join(sorted(missing))}", file=sys.stderr)
    return 1 if missing or any(verdict.outcome == "escaped" for verdict in verdicts) else 0


def _options(arguments: Sequence[str]) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="scripts/escapes", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.json", help="a corpus; one is tests/sandbox/public.json")
    parser.add_argument("--backend", default="auto", choices=["auto", "native", "bwrap", "landlock"])
    parser.add_argument(
        "--launcher", default="auto", choices=["auto", "c", "python"], help="which nest the native backend uses"
    )
    parser.add_argument("--as", dest="who", choices=["root", "user"], help="who the pool runs as; default: whoever you are")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="only cases with this in their id")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many pools side by side")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    given = parser.parse_args(arguments)
    if not given.file.is_file():
        parser.error(f"expected a corpus file, got: {given.file}; one is tests/sandbox/public.json")
    root = os.geteuid() == 0
    if given.who == "root" and not root:
        parser.error("--as root needs root")
    launcher = {"auto": None, "python": "", "c": None}[given.launcher]
    options = Options(given.file, given.backend, launcher, tuple(given.only), root and given.who == "user", given.jobs)
    return options, given.json


def _places(options: Options) -> tuple[Path, Path]:
    """Where stages are set, and a directory below /run for a socket that looks like docker's."""
    home = Path(tempfile.mkdtemp(prefix="otpd-escapes-"))
    try:
        run = Path(tempfile.mkdtemp(prefix="otpd-", dir="/run"))
    except OSError:
        run = home
    for place in (home, run):
        place.chmod(0o755)
        if options.user:
            os.chown(place, USER, USER)
    return home, run


def _play_all(
    options: Options, loaded: Corpus, cases: Sequence[Case], home: Path, run: Path, *, quiet: bool
) -> tuple[list[Verdict], dict[str, Any]]:
    leaf = cgroup.make_leaf("guard")
    if leaf is not None:
        leaf.limit(MEMORY, TASKS)
    ours, theirs = os.pipe()
    pids = []
    for number in range(options.jobs):
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            _be_player(options, loaded, cases[number :: options.jobs], home, run, number, leaf, theirs)
        pids.append(pid)
    os.close(theirs)
    verdicts: list[Verdict] = []
    table: dict[str, Any] = {}
    with open(ours, encoding="utf-8") as lines:
        for line in lines:
            said = json.loads(line)
            if "backend" in said:
                table = said
                continue
            verdicts.append(Verdict(**{**said, "why": tuple(said["why"])}))
            if not quiet:
                _show(verdicts[-1])
    for pid in pids:
        os.waitpid(pid, 0)
    if leaf is not None:
        leaf.remove()
    return verdicts, table


def _be_player(
    options: Options,
    loaded: Corpus,
    cases: Sequence[Case],
    home: Path,
    run: Path,
    number: int,
    leaf: cgroup.Leaf | None,
    out: int,
) -> None:
    """In a child: guarded, perhaps as another user. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if leaf is None or not leaf.add(os.getpid()) or not leaf.memory:
            _guard_without_cgroup()
        if options.user:
            expose(USER)
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.environ["HOME"] = str(home)
        player = Player(options, loaded, home, run, number)
        try:
            _say(out, player.capability().to_dict())
            for case in cases:
                _say(out, player.play(case).to_dict())
        finally:
            player.close()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _say(out: int, table: dict[str, Any]) -> None:
    os.write(out, json.dumps(table).encode() + b"\n")


def _guard_without_cgroup() -> None:
    """Weaker: per process, and per user for tasks."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    if os.geteuid() != 0:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NPROC, (TASKS, TASKS))


# --- what is shown ---


def _show(verdict: Verdict) -> None:
    print(f"{verdict.outcome:9}  {verdict.id:24}  {verdict.kind:16} {verdict.seconds:5.1f} s", flush=True)
    if verdict.outcome == "escaped":
        for why in verdict.why:
            print(f"           {verdict.severity}: {why}")
        print("           | " + verdict.said.strip().replace("\n", "\n           | "), flush=True)


def _report(verdicts: Sequence[Verdict], table: dict[str, Any], as_json: bool) -> None:
    count = {word: sum(each.outcome == word for each in verdicts) for word in ("contained", "escaped", "refused")}
    if as_json:
        print(json.dumps({**count, "capability": table, "cases": [each.to_dict() for each in verdicts]}))
        return
    if table:
        print(f"backend {table['backend']} ({table['launcher']}), layers: {', '.join(table['layers'])}")
        for name, gap in table["missing"].items():
            print(f"missing: {name}: {gap['why']}")
        for name, bound in table["limits"].items():
            if bound["enforced"] != "hard":
                print(f"not hard: {name}: {bound['enforced']} ({bound['by']})")
    print(f"{count['contained']} contained, {count['escaped']} escaped, {count['refused']} refused")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
