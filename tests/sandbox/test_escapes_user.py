"""The whole corpus as an ordinary user, with the nest in Python, which is what runs where there is no compiler."""

from __future__ import annotations

import pytest

from tests.sandbox.conftest import why_not_native
from tests.sandbox.playing import OWN, PUBLIC, escaped, play, who


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", [PUBLIC, OWN], ids=["public", "own"])
def test_nothing_escapes_from_a_user(file: object) -> None:
    if why_not_native():
        pytest.skip(why_not_native())
    report = play(file, "--backend", "native", "--launcher", "python", *who(user=True))  # type: ignore[arg-type]
    assert escaped(report) == {}
    assert "slot_uid" in report["capability"]["missing"]
