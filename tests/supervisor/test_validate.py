"""Specs and flags are checked in OTP's order, with OTP's errors as data and a sentence that helps."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.supervisor.spec import INFINITY, AutoShutdown, Dynamic, Restart, SupervisorSpec
from otpd.supervisor.validate import SpecError, check_child, check_children, check_flags, check_supervisor
from tests.supervisor.rig import worker


@pytest.mark.parametrize(
    ("fields", "data", "sentence"),
    [
        ({"id": None, "start": None}, "missing_id", "needs an id"),
        ({"start": None, "restart": "x"}, "missing_start", "'a' says nothing about how to start"),
        ({"id": "a/b"}, ["invalid_id", "a/b"], "a name without '/'"),
        (
            {"restart": "prmanent", "type": "x"},
            ["invalid_restart_type", "prmanent"],
            "one of permanent, transient, temporary",
        ),
        ({"restart": "transient", "significant": 1}, ["invalid_significant", 1], "true or false, got: 1"),
        (
            {"significant": True},
            ["bad_combination", [["auto_shutdown", "never"], ["significant", True]]],
            "set auto_shutdown of the supervisor",
        ),
        ({"type": "wrker", "shutdown": -1}, ["invalid_child_type", "wrker"], "one of worker, supervisor"),
        ({"shutdown": -0.01}, ["invalid_shutdown", -10], "seconds >= 0"),
        ({"shutdown": "later"}, ["invalid_shutdown", "later"], "got: 'later'"),
        ({"shutdown": True}, ["invalid_shutdown", True], "got: True"),
        ({"shutdown": float("nan")}, ["invalid_shutdown"], "got: nan"),
        ({"shutdown": float("inf")}, ["invalid_shutdown"], "got: inf"),
    ],
)
def test_the_first_violation_of_a_child_spec_is_the_one_reported(fields: dict[str, Any], data: Any, sentence: str) -> None:
    """Rules 13-18, 69."""
    from otpd.supervisor.spec import ChildSpec

    with pytest.raises(SpecError, match=None) as caught:
        check_child(ChildSpec(**{"id": "a", "start": "how"} | fields), AutoShutdown.NEVER)
    assert caught.value.data[: len(data)] == data
    assert sentence in str(caught.value)


@pytest.mark.parametrize("shutdown", [0, 0.0, 5, 0.25, "brutal_kill", INFINITY])
def test_good_shutdowns_pass(shutdown: Any) -> None:
    """Rule 16."""
    check_child(worker("a", shutdown=shutdown), None)


def test_a_permanent_child_is_never_significant() -> None:
    """Rule 17."""
    with pytest.raises(SpecError) as caught:
        check_child(worker("a", significant=True), AutoShutdown.ANY_SIGNIFICANT)
    assert caught.value.data == ["bad_combination", [["restart", "permanent"], ["significant", True]]]


def test_ids_are_unique_and_earlier_faults_come_first() -> None:
    """Rules 8, 20."""
    with pytest.raises(SpecError) as caught:
        check_children([worker("a"), worker("a"), worker("b", shutdown=-1)], None)
    assert caught.value.data == ["duplicate_child_name", "a"]
    assert "rename one of them" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        ({"strategy": "some", "max_restarts": -1}, ["invalid_strategy", "some"]),
        ({"max_restarts": -1, "max_seconds": 0}, ["invalid_intensity", -1]),
        ({"max_restarts": 1.5}, ["invalid_intensity", 1.5]),
        ({"max_restarts": True}, ["invalid_intensity", True]),
        ({"max_seconds": 0, "auto_shutdown": "x"}, ["invalid_period", 0]),
        ({"auto_shutdown": "x"}, ["invalid_auto_shutdown", "x"]),
        ({"dynamic": Dynamic.DYNAMIC, "max_children": -1}, ["invalid_max_children", -1]),
    ],
)
def test_the_first_violation_of_the_flags_is_the_one_reported(flags: dict[str, Any], data: list[Any]) -> None:
    """Rules 10, 22."""
    with pytest.raises(SpecError) as caught:
        check_flags(SupervisorSpec(**flags))
    assert caught.value.data == data
    assert "expected" in str(caught.value)
    with pytest.raises(SpecError) as outer:
        check_supervisor(SupervisorSpec(**flags))
    assert outer.value.data == ["supervisor_data", data]


def test_a_dynamic_supervisor_has_no_significant_children() -> None:
    """Rule 74; one that copies a template may have them, as in OTP."""
    with pytest.raises(SpecError) as caught:
        check_supervisor(SupervisorSpec(dynamic=Dynamic.DYNAMIC, auto_shutdown=AutoShutdown.ANY_SIGNIFICANT))
    fields = [["auto_shutdown", "any_significant"], ["dynamic", "elixir"]]
    assert caught.value.data == ["supervisor_data", ["bad_combination", fields]]
    t = worker("t", restart=Restart.TRANSIENT, significant=True)
    check_supervisor(SupervisorSpec(dynamic=Dynamic.SIMPLE, auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, template=t))


def test_a_simple_supervisor_needs_a_template() -> None:
    with pytest.raises(SpecError) as caught:
        check_supervisor(SupervisorSpec(dynamic=Dynamic.SIMPLE))
    assert caught.value.data == ["bad_start_spec"]
