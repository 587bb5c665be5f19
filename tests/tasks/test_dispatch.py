"""What goes into the journal of tasks: failures that nobody else hears of, each once."""

from __future__ import annotations

import pytest

from otpd.agents.tasks.payload import MSGPACK
from otpd.ipc.frames import pack
from tests.tasks.test_parked import Table


@pytest.mark.parametrize(
    ("detached", "ok", "noted"), [(True, False, ["failed"]), (True, True, []), (False, False, []), (False, True, [])]
)
def test_a_failure_that_nobody_waits_for_is_noted_once_and_a_clean_end_never(
    detached: bool, ok: bool, noted: list[str]
) -> None:
    """Rule 112."""
    table = Table()
    table.submit(1, detached=detached)
    table.carry_to_pool()
    table.pool.ready(1)
    for _ in range(2):  # a worker that says it twice has no task the second time
        table.pool.done(1, ok, 0, (MSGPACK, pack(None), []), [])
    assert (table.crew.sent, table.noted) == ([1], noted)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (["text.words", "count", "/srv/text/words.py", "/srv"], "text.words:count"),
        (["__main__", "count", "/srv/feed.py", "/srv"], "feed.py:count"),
        (["__main__", "count", [], 7], "__main__:count"),  # no owner of ours; who looks must not break the pool
        (None, "(pickled)"),
    ],
)
def test_a_task_is_called_in_its_pool_as_at_its_owner(function: list[object] | None, name: str) -> None:
    table = Table()
    table.pool.hear(table.owner, ["run", 1, [None, True, False], function, MSGPACK, b"", []], [])
    assert [row.name for row in table.pool.rows.values()] == [name]
