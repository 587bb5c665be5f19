"""Asks the agent in JavaScript, as it would ask any other."""

from otpd.agents import Agent, call, run


class Asker(Agent):
    @call
    async def ask(self, text: str) -> str:
        """`text` backwards, as `reverse` has it."""
        answer: str = await self.call("reverse", "reverse", text=text)
        return answer


if __name__ == "__main__":
    run(Asker)
