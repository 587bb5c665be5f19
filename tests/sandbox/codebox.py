"""Sends an attack corpus through the example `codebox`, snippet by snippet, and looks after each whether all is well.

`scripts/escapes` proves that nothing gets out; this proves that an agent which runs what strangers send stays the same
incarnation and goes on answering, and that nothing of a snippet is left.

    python -m tests.sandbox.codebox [FILE.json] [--only ID]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otpd.agents import Client, connect
from tests.e2e.node import Node
from tests.helpers import eventually
from tests.sandbox.stage import gone

EXAMPLE = Path(__file__).parents[2] / "examples" / "codebox"
CORPUS = Path(__file__).parent / "public.json"
#: Seconds for one snippet and its answer, on a machine that does much else.
PATIENCE = 120.0


@dataclass(frozen=True)
class Attack:
    id: str
    token: str
    code: str


def attacks(file: Path = CORPUS, only: Sequence[str] = ()) -> Iterator[Attack]:
    """Each case as a snippet of Python: what is in another language becomes that by exec."""
    corpus = json.loads(file.read_text())
    home = Path(tempfile.gettempdir()) / "codebox-none"  # nothing is granted, so that no path leads anywhere
    for number, case in enumerate(corpus["cases"]):
        if not only or any(word in case["id"] for word in only):
            token = f"codebox{number:03d}"
            values = {"TOKEN": token, "LPORT": "1", "HEX": "abc", "X3M": "x" * 3_000_000}
            values |= {name: f"{home}/{name.lower()}" for name in ("WS", "HOST", "RO")}
            yield Attack(case["id"], token, _filled(_snippet(corpus, case), values))


def _snippet(corpus: dict[str, Any], case: dict[str, Any]) -> str:
    match case["lang"]:
        case "py":
            return str(corpus["prelude_py"] + case["code"])
        case "sh":
            script = (corpus["prelude_sh"] if case["begin_marker"] else "") + case["code"]
            return f"import os\nos.execvp('sh', ['sh', '-c', {script!r}])"
    argv = case["profile"]["argv"]
    return f"import os\nos.execvp({argv[0]!r}, {argv!r})"


def _filled(code: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        code = code.replace("{{" + name + "}}", value)
    return code


def play(node: Node, found: Sequence[Attack], at_once: int = 4) -> list[str]:
    """What was wrong, in words; the attacks that made the box answer are told by `print`."""
    before = {name: node.worker(name)["generation"] for name in ("codebox", "commands", "broker")}
    with connect(node.control, timeout=60) as client, ThreadPoolExecutor(at_once) as threads:
        wrong = [why for why in threads.map(lambda each: _one(client, each), found) if why]
    after = {name: node.worker(name)["generation"] for name in before}
    return wrong + ([f"generations were {before} and are {after}"] if before != after else [])


def _one(client: Client, attack: Attack) -> str:
    answer = client.call("codebox", "run", timeout=PATIENCE, code=attack.code)
    print(f"{attack.id:24} {answer['ended'][:80]}", flush=True)
    box = client.call("codebox", "run", timeout=PATIENCE, code="print(6 * 7)")
    if box["output"] != "42\n":
        return f"{attack.id}: the next snippet: {box}"
    try:
        eventually(lambda: not gone(attack.token), 60)
    except AssertionError:
        return f"{attack.id}: processes are left: {gone(attack.token)}"
    return ""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.codebox", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=CORPUS)
    parser.add_argument("--only", action="append", default=[], metavar="ID")
    given = parser.parse_args(arguments)
    node = box()
    try:
        node.start()
        found = list(attacks(given.file, given.only))
        wrong = play(node, found)
    finally:
        node.close()
    print("\n".join(wrong) or f"{len(found)} attacks, and the box is well")
    return 1 if wrong else 0


def box() -> Node:
    """The example as it is, in a directory of its own."""
    node = Node((EXAMPLE / "otpd.toml").read_text())
    shutil.copytree(EXAMPLE / "agents", node.home / "agents")
    return node


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
