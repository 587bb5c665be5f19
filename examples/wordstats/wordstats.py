"""Asks the librarian and shows how far it is: `python wordstats.py [DIRECTORY]`, by default Python's own library."""

from __future__ import annotations

import sys
import sysconfig
import threading
from typing import Any

from otpd.agents import Client, connect

WIDTH = 40


def main() -> None:
    directory = sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")
    with connect() as node:
        found = ask(node, directory)
    print(f"{found['files']} files, {found['words']} words")
    for word, times in found["top"]:
        print(f"{times:8}  {word}")
    for each in found["skipped"]:
        print(f"skipped {each}", file=sys.stderr)


def ask(node: Client, directory: str) -> dict[str, Any]:
    """The answer of the librarian, with a progress bar until it comes."""
    events = node.events("wordstats.progress")
    bar = threading.Thread(target=lambda: [show(event.done, event.files) for event in events])
    bar.start()
    try:
        found: dict[str, Any] = node.call("librarian", "statistics", timeout=600, directory=directory)
    finally:
        events.close()
        bar.join()
    show(found["files"], found["files"])  # events may come later than the answer
    print(file=sys.stderr)
    return found


def show(done: int, files: int) -> None:
    filled = WIDTH * done // max(1, files)
    print(f"\r[{'#' * filled}{'-' * (WIDTH - filled)}] {done}/{files}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
