"""What `otpd letters replay` says when it can't do all of it."""

from __future__ import annotations

import json
from unittest.mock import Mock

import pytest

from otpd.agents.errors import Reject
from otpd.cli.letters import _replay


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
        assert said == "letter 1 is message 7 now\n"
