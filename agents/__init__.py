"""The SDK for worker scripts.

>>> class Greeter(Agent):
...     async def init(self, greeting: str = "hello"):
...         self.greeting = greeting
...     @call
...     async def greet(self, name: str) -> str:
...         return f"{self.greeting}, {name}"
>>> # if __name__ == "__main__": run(Greeter)
"""

from otpd.agents.agent import Agent, Ignore
from otpd.agents.arguments import ArgumentError
from otpd.agents.client import Client, connect
from otpd.agents.commands import Command
from otpd.agents.decorators import call, cast, cron, every, health, on
from otpd.agents.errors import (
    AlreadyRegistered,
    BadArguments,
    BrokerLost,
    CallTimeout,
    ChildError,
    CircuitOpen,
    DamagedState,
    Deadlock,
    Exited,
    NodeNotRunning,
    NoMethod,
    NoProcess,
    NotData,
    OtpdError,
    Overloaded,
    Refused,
    Reject,
    RemoteError,
    SpawnRefused,
    Stale,
    StoreFull,
    TooLarge,
)
from otpd.agents.life import run
from otpd.agents.replies import Reply
from otpd.agents.sandbox.result import Result
from otpd.agents.tasks.executor import PoolExecutor
from otpd.agents.tasks.handle import Task
from otpd.agents.tasks.running import current_task
from otpd.agents.tasks.stream import Stream
from otpd.agents.tasks.values import Exit, Ok, Outcome
from otpd.agents.values import Child, Entry, Event, Whereabouts

__all__ = [
    "Agent", "AlreadyRegistered", "ArgumentError", "BadArguments", "BrokerLost", "CallTimeout", "Child", "ChildError",
    "CircuitOpen", "Client", "Command", "DamagedState", "Deadlock", "Entry", "Event", "Exit", "Exited", "Ignore",
    "NoMethod", "NoProcess", "NodeNotRunning", "NotData", "Ok", "OtpdError", "Outcome", "Overloaded", "PoolExecutor",
    "Refused", "Reject", "RemoteError", "Reply", "Result", "SpawnRefused", "Stale", "StoreFull", "Stream", "Task",
    "TooLarge", "Whereabouts", "call", "cast", "connect", "cron", "current_task", "every", "health", "on", "run",
]  # fmt: skip
