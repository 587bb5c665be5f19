"""Services are killed in turn, in pairs, all at once, and stopped, while agents use them: what each costs, and what is seen.

Where a storm strikes at random and is judged at its end, here each strike is judged by itself: while a service is down or
stands still root's picture says so, it comes back as its next generation, no agent has been touched, and its death is
recorded once. At the end the verdict on what the agents wrote down is that of a storm.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otpd.agents import connect
from otpd.agents.services.journal import place
from otpd.cli import status_view, tree_view
from otpd.cli.output import Line, plain
from otpd.ipc.control import Control
from tests.chaos.run import RECOVERY, all_answer, declared, hush, kept, lost, schedules
from tests.chaos.storm import stage
from tests.chaos.verdict import Fact, Left, Verdict, judge
from tests.e2e.node import ALL_SERVICES, Node
from tests.e2e.test_observers import deaths, journal, stored
from tests.helpers import eventually

POOL = "tasks-few"
#: Whoever is struck; `commands` is there because the configuration has its table.
SERVICES = (*ALL_SERVICES, "commands", POOL)
ACTORS = tuple(f"actor{number}" for number in range(4))
RUNNER = "runner"
#: Orders commands and tasks, one after the other, and writes down what came of each.
SCRIPT = """
import asyncio, json, os, time
from otpd.agents import Agent, OtpdError, call, run
import work

class Runner(Agent):
    async def init(self, facts: str) -> None:
        path = os.path.join(facts, f"{self.name}.{time.monotonic_ns()}.jsonl")
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.count, self.hushed = 0, False
        self.note("born", generation=self.generation)
        kinds = {"command": self.command, "task": self.double}
        self.work = [asyncio.create_task(self.each(kind, do)) for kind, do in kinds.items()]

    def note(self, what, **facts):
        os.write(self.file, (json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\\n").encode())

    async def each(self, what, do):
        while not self.hushed:
            self.count += 1
            number = self.count
            self.note(f"{what} begun", id=number)
            try:
                outcome = await do(number)
            except OtpdError as error:
                outcome = type(error).__name__
            self.note(f"{what} ended", id=number, outcome=outcome)
            await asyncio.sleep(0.1)

    async def command(self, number):
        return "ok" if (await self.exec(["echo", str(number)], timeout=60)).text == f"{number}\\n" else "wrong answer"

    async def double(self, number):
        return "ok" if await self.task_nolink(work.double, number, pool="few", timeout=60) == 2 * number else "wrong answer"

    @call
    async def echo(self, text: str) -> str:
        return text

    @call
    async def hush(self) -> None:
        self.hushed = True
        await asyncio.gather(*self.work)

if __name__ == "__main__":
    run(Runner)
"""
FILES = {"runner.py": SCRIPT, "work.py": "def double(n):\n    return 2 * n\n"}
MORE = """
[commands]
workers = 1
queue_timeout = "10m"
slot_uids = "233000-233063"
limits = { wall = "60s" }

[pools.few]
size = 1

[agents.runner]
script = "runner.py"
args = { facts = "FACTS" }
"""
#: What a caller may be told of a call; the last two only because a machine may be busy.
OUTCOMES = frozenset({"ok", "BrokerLost", "CallTimeout", "CircuitOpen"})
#: Seconds for which a cast may wait for whom it was sent to: he may be waiting for the store.
UNDER_WAY = 15.0
ENDED = frozenset({"ok", "Exited", "BrokerLost", "CallTimeout", "CircuitOpen"})


@dataclass(frozen=True)
class Struck:
    """Monotonic seconds: from the signal until all was well."""

    victims: tuple[str, ...]
    since: float
    until: float


@dataclass
class Rounds:
    """`seen`: how often the picture showed somebody degraded while he was."""

    node: Node
    actors: Sequence[str]
    problems: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    died: Counter[tuple[str, int]] = field(default_factory=Counter)
    struck: list[Struck] = field(default_factory=list)

    def kill(self, *victims: str) -> None:
        """At once; until all have come back, and every agent has been answered."""
        began, agents = time.monotonic(), self.agents()
        before = {name: self.node.when(name, state="running") for name in victims}
        for row in before.values():
            os.kill(row["pid"], signal.SIGKILL)
        eventually(lambda: self._all_back(before), RECOVERY, f"{victims} are back")
        self._after(victims, agents, before)
        self.struck.append(Struck(victims, began, time.monotonic()))

    def _all_back(self, before: dict[str, Any]) -> bool:
        rows = {name: row for name, row in self.look().items() if name in before}
        self.seen.update(f"{name} down" for name, row in rows.items() if degraded(row))
        return all(
            row["state"] == "running" and row["generation"] > before[name]["generation"] for name, row in rows.items()
        )

    def stop(self, victim: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT for whom its watchdog has not ended meanwhile. The silence is seen before."""
        began, agents = time.monotonic(), self.agents()
        before = self.node.when(victim, state="running", what=None)
        os.kill(before["pid"], signal.SIGSTOP)
        eventually(lambda: self._silent(victim, before["pid"]), RECOVERY, f"the picture shows that {victim} is silent")
        self._rest_works(victim)
        while time.monotonic() < began + seconds:
            time.sleep(0.1)  # how long it stands still, not a wait
        with suppress(ProcessLookupError):
            if self.node.worker(victim)["pid"] == before["pid"]:
                os.kill(before["pid"], signal.SIGCONT)
        after = eventually(lambda: self._well(victim), RECOVERY, f"{victim} is well")
        died = {victim: before} if after["generation"] > before["generation"] else {}
        self.seen[f"{victim} {'ended' if died else 'went on'}"] += 1
        self._after((victim,), agents, died)
        self.struck.append(Struck((victim,), began, time.monotonic()))

    def _silent(self, victim: str, pid: int) -> bool:
        row = self.look()[victim]
        assert row["pid"] == pid, f"{victim} was ended before anybody could see that it was silent"
        self.seen[f"{victim} silent"] += degraded(row)
        return degraded(row)

    def _well(self, victim: str) -> dict[str, Any] | None:
        row = self.look()[victim]
        return None if degraded(row) else row

    def _rest_works(self, victim: str) -> None:
        """The rest works while one of the others stands still: who stores nothing waits for no store."""
        if victim != "broker":
            with connect(self.node.control) as client:
                assert client.call(RUNNER, "echo", text=victim, timeout=60) == victim

    def look(self) -> dict[str, Any]:
        """The rows of `status`, when `tree` and the words for people say the same of each."""
        with Control.open(self.node.control) as control:
            rows, tree = control.ask("status"), control.ask("tree")
        by_name = {row["name"]: row for row in rows}
        self.problems += _unseen(by_name, status_view.table(rows, time.time()), "status")
        of_tree = {row["name"]: row for row in workers(tree["tree"])}
        self.problems += _unseen(of_tree, tree_view.render(tree, time.time()), "tree")
        return by_name

    def agents(self) -> dict[str, tuple[int, int]]:
        rows = self.node.workers().items()
        return {name: (row["pid"], row["generation"]) for name, row in rows if row["kind"] == "agent"}

    def _after(self, victims: Sequence[str], agents: dict[str, tuple[int, int]], died: dict[str, Any]) -> None:
        all_answer(self.node, self.actors)
        struck = " and ".join(victims)
        if self.agents() != agents:
            self.problems.append(f"{struck}: agents were touched: {agents} -> {self.agents()}")
        for name, old in died.items():
            now = self.node.worker(name)
            more, restarts = now["generation"] - old["generation"], now["restarts"] - old["restarts"]
            if not 1 <= more == restarts:  # on a busy machine a start may be over its time
                self.problems.append(f"{struck}: {name} came back as {now}")
            self.died[name, old["generation"]] += 1


def degraded(row: dict[str, Any]) -> bool:
    return row["state"] != "running" or bool(row["what"])


def workers(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in node.get("children", ()):
        if child["type"] == "worker":
            yield child
        yield from workers(child)


def _unseen(rows: dict[str, Any], lines: Iterable[Line], where: str) -> list[str]:
    """Who is degraded and is not shown so to people."""
    shown = [plain(line) for line in lines]
    return [
        f"{where} does not show that {name} is {row['state']}, {row['what']}"
        for name, row in rows.items()
        if degraded(row) and not _says(next((line for line in shown if name in line.split()[:6]), ""), row)
    ]


def _says(line: str, row: dict[str, Any]) -> bool:
    """Its state and why; what is only how it ended is there in the words of its last exit."""
    ended = (row["last_exit"] or {}).get("reason")
    return row["state"] in line and (not row["what"] or row["what"] == ended or row["what"] in line)


@contextmanager
def scene(
    seed: int, actors: Sequence[str] = ACTORS, services: Sequence[str] = SERVICES, more: str = MORE
) -> Iterator[tuple[Rounds, Path]]:
    """A node of actors and of what `more` says, when all of it runs, and the directory of their facts."""
    with stage(seed, actors, services, more, FILES) as (node, facts):
        all_answer(node, actors)
        for name in services:
            node.when(name, RECOVERY, state="running")
        yield Rounds(node, actors), facts


def finish(rounds: Rounds, facts: Path) -> Verdict:
    """The traffic comes to its end; what must hold of all of it is added to the problems."""
    node, actors, until = rounds.node, rounds.actors, time.monotonic()
    hush(node, [*rounds.agents()])
    left = Left(kept(node, actors), schedules(node, actors), declared(actors), lost(node))
    rounds.problems += _events(node, rounds.died)
    node.stop()
    verdict = judge(facts, left)
    everything = [json.loads(line) for path in facts.glob("*.jsonl") for line in path.read_text().splitlines()]
    rounds.problems += [*verdict.problems, *_ended(everything), *_heard(facts), *_lost(everything, rounds.struck, until)]
    return verdict


def _lost(everything: Sequence[Fact], struck: Sequence[Struck], until: float) -> Iterator[str]:
    """Calls end as they may, and only a broker that dies takes casts along: those that were on their way (C2, K1)."""
    began = struck[0].since
    meanwhile = [fact for fact in everything if began < fact["at"] < until]
    for fact in meanwhile:
        if fact["what"] == "called" and fact["outcome"] not in OUTCOMES:
            yield f"at {fact['at'] - began:.3f} s call {fact['id']} ended as {fact['outcome']}: {fact['why']}"
    taken = {fact["id"] for fact in everything if fact["what"] == "took"}
    sent = [fact for fact in meanwhile if fact["what"] == "casted" and fact["outcome"] in ("sent", "accepted")]
    with_broker = [(each.since - UNDER_WAY, each.until) for each in struck if "broker" in each.victims]
    alone = [fact for fact in sent if not any(since <= fact["at"] <= until for since, until in with_broker)]
    lost = [f"{fact['at'] - began:.3f} s" for fact in alone if fact["id"] not in taken]
    rejected = sum(fact["what"] == "rejected" for fact in meanwhile)
    if len(lost) > rejected:
        yield f"{len(lost)} casts are lost though no broker died, and {rejected} were rejected: {lost[:50]}"


def _events(node: Node, died: Counter[tuple[str, int]]) -> Iterator[str]:
    """Each event of root has its number and none is missing, each death is stored once, and nobody was called ill."""
    eventually(lambda: stored(node) == deaths(node), RECOVERY, "each death is stored once")
    told = journal(node)
    places = [place(event) for event in told]
    yield from (f"events were lost: {event}" for event, at in zip(told, places, strict=True) if at is None)
    numbers = [at.seq for at in places if at is not None]
    yield from (f"events are missing before {later}" for first, later in itertools.pairwise(numbers) if later != first + 1)
    dead = [each for each in told if each["event"] == "otpd.child.death"]
    times = Counter((each["name"], each["generation"]) for each in dead)
    yield from (f"{who} died {count} times" for who, count in times.items() if count > 1)
    killed = Counter((each["name"], each["generation"]) for each in dead if each["reason"] == "killed")
    yield from (f"that {who} was killed is recorded nowhere" for who in died if who not in killed)
    yield from (f"{each['name']} was called ill" for each in told if each["event"] == "otpd.health.unhealthy")


def _ended(everything: Iterable[Fact]) -> Iterator[str]:
    """Commands and tasks: each has one outcome, and none that it may not have."""
    begun: Counter[tuple[str, int]] = Counter()
    ended: Counter[tuple[str, int]] = Counter()
    for fact in everything:
        kind, _, what = fact["what"].partition(" ")
        if kind in ("command", "task"):
            (begun if what == "begun" else ended)[kind, fact["id"]] += 1
            if fact.get("outcome", "ok") not in ENDED:
                yield f"{kind} {fact['id']} ended as {fact['outcome']}"
    yield from (f"{kind} {id_} ended {ended[kind, id_]} times" for kind, id_ in begun if ended[kind, id_] != 1)


def _heard(facts: Path) -> Iterator[str]:
    """An event comes to each who hears of it once at most (F2)."""
    for path in facts.glob("actor*.jsonl"):
        heard = Counter(fact["id"] for fact in map(json.loads, path.read_text().splitlines()) if fact["what"] == "heard")
        yield from (f"{path.name} heard {id_} {times} times" for id_, times in heard.items() if times > 1)
