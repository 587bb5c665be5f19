"""What `otpd init` writes: a commented otpd.toml and a first agent. Never overwrites anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CONFIG: Final = '''\
# The tree of this node. `otpd check --show` prints what it means, `otpd start` runs it.
# Order in this file is start order; stopping goes the other way round.

[node]
# name = "shop"                 # default: the name of this directory
# state_dir = ".otpd"           # logs and the node's identity

# An agent is a Python script that uses the SDK. The next child starts when its init() has returned.
[agents.hello]
script = "agents/hello.py"      # relative to this file
args = { greeting = "hello" }   # keyword arguments of its init()
# restart = "permanent"         # permanent | transient | temporary
# shutdown = "5s"               # how long it may take to stop; then it is killed
# instances = 1                 # n > 1: hello-1 .. hello-n
# spawn = "warn"                # processes that it makes by itself: allow | warn | deny

# A program is any executable.
# [programs.web]
# command = ["python3", "-m", "http.server", "8080"]
# ready = { tcp = 8080 }        # "spawned" (default) | "notify" | {tcp = PORT} | {exec = [...]} | {http = "http://..."}
# env = { LANG = "C.UTF-8" }
# limits = { memory = "512MiB", files = 1024 }

# Commands of agents (self.exec) run in a sandbox. A profile says what they may see, change and use; `otpd doctor` what
# this machine gives.
# [commands.profiles.build]
# rw = ["work"]
# limits = { wall = "1m", memory = "1GiB" }

# A supervisor of your own: rest_for_one restarts a child that crashed and what was started after it,
# one_for_all restarts all of its children. More than max_restarts in max_seconds, and it gives up.
# [supervisors.pricing]
# strategy = "rest_for_one"
# max_restarts = 3
# max_seconds = 5
#
# [agents.feed]
# script = "agents/feed.py"
# supervisor = "pricing"
'''

AGENT: Final = '''\
"""A first agent: says hello when it starts, and then prints a line every few seconds.

Try: otpd start, and in another terminal: otpd tree; otpd call hello greet name=Ann;
otpd signal KILL hello; otpd why hello
"""

from otpd.agents import Agent, call, every, run


class Hello(Agent):
    """Greets whoever reads its log."""

    async def init(self, greeting: str = "hello") -> None:  # `args` in otpd.toml; it is ready when this returns
        self.greeting, self.number = greeting, 0
        print(f"{greeting}, I am up", flush=True)

    @every("3s")
    async def count(self) -> None:  # from the node's scheduler: `otpd schedule`
        self.number += 1
        print(f"{self.greeting} number {self.number}", flush=True)

    @call
    async def greet(self, name: str) -> str:  # otpd call hello greet name=Ann
        return f"{self.greeting}, {name}"

    async def terminate(self, reason: str) -> None:
        print(f"goodbye: {reason}", flush=True)


if __name__ == "__main__":
    run(Hello)
'''

FILES: Final = {"otpd.toml": CONFIG, "agents/hello.py": AGENT}


class InitError(Exception):
    """Nothing, or not everything, could be written; says which file and why."""


def init_node(directory: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write the files into `directory`, which is made when it is missing; their paths. InitError when one is there."""
    paths = [Path(directory) / name for name in FILES]
    for path in paths:
        if os.path.lexists(path):
            raise InitError(f"{path} is there already and is not overwritten; choose another directory or remove it")
    for path, text in zip(paths, FILES.values(), strict=True):
        _write(path, text)
    return tuple(paths)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        what = f"{error.filename} is there already and is not overwritten; choose another directory"
        raise InitError(what) from error
    except OSError as error:
        raise InitError(f"can't write {path}: {error.strerror}; choose a directory that is yours to write") from error
