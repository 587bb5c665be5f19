"""`otpd letters replay` and `purge`: all of them, however many, and what is said when it can't be done."""

from __future__ import annotations

import json
import time
from typing import Any
from unittest.mock import Mock

import pytest

from otpd.agents.errors import Reject
from otpd.agents.services.store import journal
from otpd.cli.letters import _PAGE, _chosen, _replay
from tests.services.durable_world import World


@pytest.mark.parametrize("json_", [False, True])
def test_what_was_replayed_before_one_is_refused_is_told(json_: bool, capsys: pytest.CaptureFixture[str]) -> None:
    node = Mock()
    node.call.side_effect = [[7], Reject("letter 2 stays where it is")]
    with pytest.raises(Reject, match="letter 2 stays"):
        _replay(node, [1, 2, 3], json_)
    said = capsys.readouterr().out
    if json_:
        assert json.loads(said) == [{"letter": 1, "message": 7}]
    else:
        assert said == "letter 1 is message 7 now\nreplayed 1 of 3 letters\n"


def test_all_are_all_of_them_however_many_pages_and_of_one_target_only_its_own() -> None:
    world, count = World(), 2 * _PAGE + 1
    fixed = "INSERT INTO letters VALUES (?, ?, 'k', 's', '', 0, 'do', 1.0, 5, 0, 1, x'', 0, ?, 'raised', '', '')"
    world.disk.executemany(fixed, [(seq, "ab"[seq % 2], seq * 1000.0) for seq in range(1, count + 1)])

    def asked(_: str, method: str, timeout: float, **arguments: Any) -> list[int]:
        return journal.letter_numbers(world.disk, **arguments)

    node = Mock(call=asked)
    assert _chosen(node, (), "") == list(range(1, count + 1))
    assert _chosen(node, (), "b") == list(range(1, count + 1, 2))
    assert _chosen(node, (3, 1), "") == [3, 1]
    assert _chosen(node, (), "", older=time.time() - 10_500.0) == list(range(1, 11))
