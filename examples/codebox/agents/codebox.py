"""Runs Python snippets, each in a sandbox of its own, several at a time; answers with what came of each."""

import asyncio
from collections import Counter
from typing import Any

from otpd.agents import Agent, BrokerLost, Exited, Overloaded, Reject, Reply, Result, call, run


class Codebox(Agent):
    """An interpreter for strangers."""

    async def init(self, profile: str = "snippet", longest: float = 5.0) -> None:
        self.profile, self.longest = profile, longest
        self.ended: Counter[str] = Counter()
        self.running: set[asyncio.Task[None]] = set()

    @call
    async def run(self, code: str, stdin: str = "", seconds: float = 5.0) -> Any:
        """Run `code` in a fresh interpreter for at most so many seconds."""
        if not 0 < seconds <= self.longest:
            raise Reject(f"expected seconds, more than 0 and at most {self.longest:g}, got {seconds:g}")
        reply = self.defer()  # the next snippet need not wait for this one
        task = asyncio.create_task(self.answer(reply, code, stdin, seconds))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        reply.when_gone(task.cancel)  # who asked has gone: the snippet is cancelled, too

    async def answer(self, reply: Reply, code: str, stdin: str, seconds: float) -> None:
        try:
            result = await self.exec_python(code, profile=self.profile, stdin=stdin, timeout=seconds)
        except Overloaded:
            reply.fail(Reject("all boxes are taken and many wait; try again in a moment"))
        except (Exited, BrokerLost):  # the service of the boxes, or the way to it, has died; the others' snippets go on
            reply.fail(Reject("its box has been lost, and all that ran in it; run it again"))
        else:
            self.ended[result.killed_by or result.status] += 1
            reply.answer(shown(result))

    @call
    async def stats(self) -> dict[str, Any]:
        """How many run, and how those before have ended."""
        return {"running": len(self.running), "ended": dict(self.ended)}


def shown(result: Result) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "ended": result.summary(),
        "output": result.text,
        "errors": result.stderr.decode(errors="replace"),
        "cut": result.stdout_truncated or result.stderr_truncated,
        "hint": result.hint,
        "seconds": round(result.wall_s, 3),
    }


if __name__ == "__main__":
    run(Codebox)
