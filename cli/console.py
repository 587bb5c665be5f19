"""The foreground view: what the children print, prefixed with their names, and what happens to them.

A process of its own, started by heart (`python -m otpd.cli.console`). It only reads files and asks root; when it is
slow, stopped or killed, no child, nor root, nor heart notices. It survives root and ends with heart.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from otpd.cli import logs
from otpd.cli.client import connect
from otpd.cli.events import stream
from otpd.cli.output import Span, Style, coloured, harmless, plain, wants_colour
from otpd.cli.words import duration, listed
from otpd.ipc.control import ControlError
from otpd.supervisor.paths import NodePaths

#: Seconds between two words of a stop that takes its time (T23).
_PROGRESS: Final = 2.0
#: Seconds between two tries to reach a root that is not there yet.
_RETRY: Final = 0.1
#: How many events of the time before it could connect are shown.
_MISSED: Final = 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="otpd console")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--runtime-dir", type=Path, required=True)
    given = parser.parse_args()
    Console(NodePaths(given.state_dir, given.runtime_dir), sys.stdout.write, wants_colour()).run()


class Console:
    """Two sources, one line at a time: the logs in the main thread, the events in another."""

    def __init__(self, paths: NodePaths, write: Callable[[str], object], colour: bool) -> None:
        self._paths, self._write, self._colour = paths, write, colour
        self._heart = os.getppid()
        self._began = time.time()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._looked_again = False

    def run(self) -> None:
        """Until heart ends it or is gone; what was printed before that is shown."""
        signal.signal(signal.SIGTERM, lambda *_: self._ended.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=self._show_events, daemon=True).start()
        try:
            logs.follow_all(self._paths, self._put, self._began, self._seen_all, self._colour)
        except OSError:
            pass  # nobody reads any more: the terminal is gone

    def _over(self) -> bool:
        return self._ended.is_set() or os.getppid() != self._heart

    def _seen_all(self) -> bool:
        """One more look after the end: what was printed last is in the logs by then."""
        over, self._looked_again = self._looked_again, self._over()
        return over

    def _put(self, text: str) -> None:
        with self._lock:
            self._write(text)
            sys.stdout.flush()

    def _show_events(self) -> None:
        try:
            for event in self._events():
                line = narrate(event)
                if line and event["at"] >= self._began - 1:
                    self._put((coloured([line]) if self._colour else plain([line])) + "\n")
                if event["event"] == "otpd.node.stopping":
                    threading.Thread(target=self._show_progress, daemon=True).start()
        except OSError:
            self._ended.set()

    def _events(self) -> Iterator[dict[str, Any]]:
        """Over all lives of root."""
        while not self._over():
            try:
                yield from stream(self._paths, _MISSED)
            except ControlError:
                time.sleep(_RETRY)

    def _show_progress(self) -> None:
        while not self._ended.wait(_PROGRESS):
            try:
                with connect(self._paths, grace=0) as control:
                    rows = control.ask("status", timeout=1.0)
            except ControlError:
                continue
            alive = [row for row in rows if row["pid"]]
            left = [row["name"] for row in alive if row["kind"] != "service"] or [row["name"] for row in alive]
            if left:
                self._put(f"otpd: waiting for {harmless(listed(left))}; ^C kills what is left\n")


def narrate(event: dict[str, Any]) -> Span | None:
    """A line for what a person in front of the node wants to know; None for the rest."""
    who = harmless(str(event.get("path") or event.get("name") or "the node"))
    match str(event["event"]).removeprefix("otpd."):
        case "child.started":
            return Span(f"otpd: {who} started, generation {event['generation']}", Style.GOOD)
        case "child.start_failed":
            return Span(f"otpd: {who} did not start: {harmless(str(event.get('reason')))}", Style.BAD)
        case "child.exited" if event.get("asked"):
            return Span(f"otpd: {who} stopped", Style.DIM)
        case "child.exited":
            return Span(f"otpd: {who} ended: {harmless(str(event.get('reason')))}", Style.BAD)
        case "restart.scheduled" if event.get("delay"):
            return Span(f"otpd: {who} is started again in {duration(event['delay'])}", Style.BUSY)
        case "supervisor.gave_up":
            limit = f"{event.get('max_restarts')} restarts in {event.get('max_seconds')} s"
            return Span(f"otpd: {who} gives up: more than {limit} were needed", Style.BAD)
        case "node.started":
            return Span(f"otpd: {who} is ready; ^C stops it in order, a second ^C kills", Style.BOLD)
        case "node.stopping":
            return Span(f"otpd: {who} is stopping in order; ^C again kills what is left", Style.BOLD)
    return None


if __name__ == "__main__":
    main()
