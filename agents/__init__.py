"""The SDK for worker scripts: derive from `Agent`, hand the class to `run`.

>>> class Greeter(Agent):
...     def init(self, greeting: str = "hello") -> None:
...         self.greeting = greeting
>>> # if __name__ == "__main__": run(Greeter)
"""

from otpd.agents.arguments import ArgumentError
from otpd.agents.errors import OtpdError
from otpd.agents.runtime import Agent, Ignore, run

__all__ = ["Agent", "ArgumentError", "Ignore", "OtpdError", "run"]
