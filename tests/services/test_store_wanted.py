"""Nobody's submission ends the store: what is wrong is rejected before it is taken."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.agents.errors import Reject
from otpd.agents.services.store import wanted
from otpd.agents.services.store.messages import Kind, Request
from otpd.agents.services.store.state import Fence

GOOD = [0, "books", "paid", b"x", "k", "id"]


def test_what_is_right_is_read() -> None:
    request = Request(Kind.CAST, "books", "paid", b"x", "k", "id")
    assert wanted.read(2**63 - 1, [GOOD], [3, 1], [b"s", None]) == ([request], (3, 1))


@pytest.mark.parametrize("change", [
    {"number": 2**63}, {"number": -1}, {"settles": []}, {"settles": [1, 2**63]}, {"settles": [1, 2, 3]},
    {"state": [5, None]}, {"state": [b"", 2**63]}, {"state": []}, {"state": "x"}, {"requests": [7]},
    {"requests": [[1, "otpd.child.death", "", b"x", "k", "id"]]},
    *({"requests": [[*GOOD[:at], wrong, *GOOD[at + 1 :]]]} for at, wrong in enumerate([9, 1, None, "text", 2, b"id"])),
])  # fmt: skip
def test_what_is_wrong_is_rejected(change: dict[str, Any]) -> None:
    given = {"number": 1, "requests": [GOOD], "settles": None, "state": None} | change
    with pytest.raises(Reject, match="submit: expected "):
        wanted.read(**given)


def test_clients_leave_nothing_behind_in_the_fence() -> None:
    fence = Fence()
    assert [fence.admits(f"@{i}", 1) for i in range(3)] == [True] * 3
    assert fence._incs == {}
