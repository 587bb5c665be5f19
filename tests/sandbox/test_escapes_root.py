"""The whole corpus as root, on a slot's uid, with the launcher that is there."""

from __future__ import annotations

import pytest

from tests.sandbox.conftest import why_not_native
from tests.sandbox.playing import OWN, PUBLIC, escaped, needs_root, play


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", [PUBLIC, OWN], ids=["public", "own"])
def test_nothing_escapes_from_root(file: object) -> None:
    needs_root()
    if why_not_native():
        pytest.skip(why_not_native())
    report = play(file, "--backend", "native")  # type: ignore[arg-type]
    assert escaped(report) == {}
    assert report["capability"]["layers"]["slot_uid"] == ""
