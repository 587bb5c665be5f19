"""Alerts of the host: one per condition, raised and cleared at thresholds of their own, and only by what lasts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.services.health.alerts import DEFAULTS, Alert, Alerts, Threshold
from otpd.agents.services.health.host import Host
from otpd.agents.services.health.service import thresholds


def changes(alerts: Alerts, *readings: tuple[float, float]) -> list[tuple[float, bool]]:
    """(when, raised) for readings of the disk at their times."""
    return [(at, alert.raised) for at, value in readings for alert in alerts.read({"disk": value}, at)]


def test_it_is_raised_once_and_cleared_once_however_readings_go_between_the_thresholds() -> None:
    alerts = Alerts({"disk": Threshold(90.0, 80.0, 0.0)})
    assert changes(alerts, (0, 89.9), (5, 90.0), (10, 85.0), (15, 99.0), (20, 80.1)) == [(5, True)]
    assert alerts.raised == {"disk"}
    assert changes(alerts, (25, 80.0), (30, 85.0), (35, 79.0)) == [(25, False)]
    assert alerts.raised == set()


def test_a_peak_that_does_not_last_is_no_alert_and_a_lull_does_not_end_one() -> None:
    alerts = Alerts({"disk": Threshold(90.0, 80.0, 30.0)})
    assert changes(alerts, (0, 95), (25, 95), (29, 85), (30, 95), (59, 95), (60, 95)) == [(60, True)]
    assert changes(alerts, (65, 10), (90, 10), (94, 81), (95, 10), (125, 10)) == [(125, False)]


def test_what_was_raised_before_by_an_earlier_service_is_not_raised_again() -> None:
    alerts = Alerts({"disk": Threshold(90.0, 80.0, 0.0)}, raised=["disk", "no such condition"])
    assert changes(alerts, (0, 99), (5, 70)) == [(5, False)]


def test_conditions_know_nothing_of_each_other_and_one_that_is_off_is_not_judged() -> None:
    alerts = Alerts(thresholds({"cpu": False, "disk": {"raise": 50.0, "clear": 40.0}, "memory": {"hold": 0.0}}))
    assert alerts.read({"cpu": 100.0, "disk": 60.0, "memory": 96.0, "load": 1.0}, 0.0) == [
        Alert("disk", True, 60.0, 50.0),
        Alert("memory", True, 96.0, 95.0),
    ]


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.0, 100.0)), max_size=50), st.floats(0.0, 30.0))
def test_raised_and_cleared_take_turns_and_each_was_true_for_as_long_as_it_must(
    steps: list[tuple[float, float]], hold: float
) -> None:
    alerts, now, history, expected = Alerts({"disk": Threshold(60.0, 40.0, hold)}), 0.0, [], True
    for passed, value in steps:
        now += passed
        history.append((now, value))
        for alert in alerts.read({"disk": value}, now):
            assert alert.raised is expected
            expected = not expected
            lasting = [value >= 60.0 if alert.raised else value <= 40.0 for at, value in history if at > now - hold]
            assert all(lasting)


def test_the_host_can_be_read(tmp_path: object) -> None:
    found = Host(str(tmp_path)).read()
    assert found.keys() == DEFAULTS.keys()
    assert all(0.0 <= found[condition] <= 100.0 for condition in ("cpu", "memory", "disk"))
    assert Host("/no/such/directory").read().keys() == DEFAULTS.keys() - {"disk"}
