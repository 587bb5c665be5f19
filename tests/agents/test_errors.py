"""What the codes of the protocol are called, and what they say of execution."""

from __future__ import annotations

from pathlib import Path

import pytest

import otpd.agents
from otpd.agents import errors
from otpd.agents.errors import OtpdError, failure

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("noproc", "NoProcess"), ("overloaded", "Overloaded"), ("circuit_open", "CircuitOpen"), ("expired", "CallTimeout"),
        ("timeout", "CallTimeout"), ("too_large", "TooLarge"), ("deadlock", "Deadlock"), ("stale", "Stale"),
        ("down", "Exited"), ("broker_lost", "BrokerLost"), ("already_registered", "AlreadyRegistered"),
        ("conflict", "Refused"), ("a code of tomorrow", "Refused"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("executed", ["no", "maybe"])
def test_each_code_is_an_error_that_keeps_what_was_executed_and_says_what_to_do(code: str, kind: str, executed: str) -> None:
    """D2, D3: what may have been done is the broker's word."""
    error = failure("call of a.b", code, executed, "detail")
    assert (type(error).__name__, error.executed) == (kind, executed)
    assert str(error).startswith("call of a.b: ") and "(detail)" in str(error) and ";" in str(error)
    assert "reason" not in vars(error) or vars(error)["reason"] == "detail"
    assert "code" not in vars(error) or vars(error)["code"] == code


def classes() -> list[type[OtpdError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, OtpdError)]
    return [each for each in found if each is not OtpdError]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: str(kind.__name__))
def test_every_class_is_exported_and_has_its_section_in_the_docs(kind: type[OtpdError]) -> None:
    assert getattr(otpd.agents, kind.__name__) is kind
    assert f"\n## {kind.__name__}\n" in (DOCS / "troubleshooting.md").read_text()


def test_who_is_refused_for_its_frames_is_not_told_that_it_was_replaced() -> None:
    assert errors.stale("feed", "4 is current") == "feed: a newer incarnation has taken over (4 is current)"
    assert errors.stale("feed", "protocol: no frame").startswith("feed: the broker refuses it after three malformed frames")
