"""The example `codebox`: strangers' snippets, and attacks that leave it as it was. The whole corpus: scripts/codebox."""

from __future__ import annotations

import asyncio
import json
import runpy
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from otpd.agents import Reject, Result, connect, testing
from scripts.benchmarks.ordered import ATTACKS
from tests.agents.scenes import scene
from tests.e2e.node import Node
from tests.sandbox.codebox import attacks, box, play
from tests.sandbox.conftest import why_not_native

ROOMS = Path(__file__).parents[2]
#: Of each kind one: what it uses up, what it leaves, whom it kills, what it prints, where it looks.
SLICE = (
    "A01-forkbomb-py", "A06-membomb", "A11-tmp-fill", "A20-stdout-flood", "B02-daemon", "B06-kill-all", "B25-kill-init",
    "C01-env", "E02-abstract", "F27-privs",
)  # fmt: skip


@pytest.fixture(scope="module")
def codebox() -> Iterator[Node]:
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    made = box()
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_snippet_is_run_and_its_end_is_told(codebox: Node) -> None:
    def ended() -> Counter[str]:
        return Counter(json.loads(codebox.otpd("call", "codebox", "stats").stdout)["ended"])

    def run(code: str, *more: str) -> dict[str, object]:
        told = codebox.otpd("call", "codebox", "run", f"code={code}", "--timeout", "60s", *more)
        return dict(json.loads(told.stdout))

    before = ended()
    answer = run("print(input() + '!')", "stdin=hello")
    assert {key: answer[key] for key in ("ok", "ended", "output", "errors", "cut", "hint")} == {
        "ok": True, "ended": "exited 0", "output": "hello!\n", "errors": "", "cut": False, "hint": "",
    }  # fmt: skip
    assert run("while True: pass", "seconds=1")["ended"] == "killed (timeout)"
    assert "ZeroDivisionError" in str(run("1 / 0")["errors"])
    refused = codebox.otpd("call", "codebox", "run", "code=pass", "seconds=600", check=1)
    assert "at most 5, got 600" in refused.stderr
    assert ended() - before == {"exited": 2, "timeout": 1}


def test_it_stays_well_under_attack(codebox: Node) -> None:
    found = list(attacks(only=SLICE))
    assert {each.id for each in found} == set(SLICE)
    assert play(codebox, found) == []


def test_others_are_answered_while_four_snippets_attack_at_once(codebox: Node) -> None:
    before = {row["name"]: row["generation"] for row in codebox.ask("status") if not row["name"].startswith("commands-")}
    with connect(codebox.control, timeout=60) as client, ThreadPoolExecutor(len(ATTACKS)) as threads:
        codes = ATTACKS.values()
        asked = [threads.submit(client.call, "codebox", "run", timeout=120, code=code, seconds=2.0) for code in codes]
        answers = 0
        while not all(each.done() for each in asked) or not answers:
            assert client.call("codebox", "stats", timeout=60)["running"] <= len(ATTACKS)
            answers += 1
        assert [each.result()["ended"].partition(" ")[0] for each in asked] == ["killed"] * len(ATTACKS)
    after = {row["name"]: row["generation"] for row in codebox.ask("status") if not row["name"].startswith("commands-")}
    assert before == after


@scene
async def test_a_box_that_is_lost_or_not_to_be_had_is_an_answer_and_no_crash() -> None:
    codebox = runpy.run_path(str(ROOMS / "examples" / "codebox" / "agents" / "codebox.py"))["Codebox"]

    async def dies(_method: str, _args: dict[str, Any]) -> None:
        service.end("killed")
        await asyncio.Event().wait()

    async with testing.run(codebox) as agent:
        service = agent.peer("commands", dies)
        with pytest.raises(Reject, match="has been lost"):
            await agent.call("run", code="pass")
        assert await agent.call("stats") == {"running": 0, "ended": {}}
    async with testing.run(codebox) as agent:
        full = {"code": "queue_full", "layer": "queue", "text": "100 commands wait.", "fix": "try again"}
        agent.commands(lambda _argv, _options: Result("", "busy", error=full))
        with pytest.raises(Reject, match="try again in a moment"):
            await agent.call("run", code="pass")
        assert await agent.call("stats") == {"running": 0, "ended": {}}
