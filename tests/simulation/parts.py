"""What the SDK of a simulated agent does beside plain messages: one `Part` for each service that it speaks to.

A message of a part has a `payload` whose first word says which part it belongs to, on its way there and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.agent import Handling
    from tests.simulation.messages import Message


class Part:
    """`words`: with which its payloads begin."""

    words: frozenset[str] = frozenset()

    def begin(self) -> None:
        """The agent is ready."""

    def hear(self, happening: Any) -> None:
        """What is no message and no end of one."""

    def arrived(self, message: Message, happening: Any) -> bool:
        """Whether it is to be handled, in its turn."""
        raise NotImplementedError

    def withdrawn(self, message: Message) -> bool:
        """Whether its turn has come for nothing."""
        return False

    def handle(self, handling: Handling) -> None:
        """The time of the handler is over: what came of it. `agent.settle(handling)` must follow, some time."""

    def outcome(self, message: Message, answered: bool) -> None:
        """Of a call of this part."""

    def cancelled(self, call: int, is_dead: bool) -> bool:
        """Whether the call was one of this part; its caller has given up, or died."""
        return False
