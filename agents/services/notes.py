"""What a service has noted in root's event log: "otpd.SERVICE.KIND", kept on disk although everybody is killed.

>>> # note(self, "skipped", "feed", schedule="poll", why="overlap")
"""

from __future__ import annotations

from typing import Any

from otpd.agents.agent import Agent


def note(service: Agent, kind: str, name: str, /, **data: Any) -> bool:
    """Tell root; `name` is whom it is about, `data` at most 4 KiB. Never waits; False: root has no room, it is not noted.

    Root lets through 100 at once and 20 a second of each service, and counts the others.
    """
    return service._host.note(kind, name, data)
