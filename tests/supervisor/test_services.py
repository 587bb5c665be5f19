"""The node's own part of the tree."""

from __future__ import annotations

import os

from otpd.supervisor.services import BROKER, OWN_NAMES, SERVICES, WATCHDOG, is_own, with_services
from otpd.supervisor.spec import ChildSpec, Launch, Restart, SupervisorSpec
from otpd.supervisor.validate import check_supervisor

MINE = ChildSpec(id="mine", start=Launch(kind="agent", script="/mine.py"))


def test_services_come_before_everything_that_the_user_wrote() -> None:
    top = SupervisorSpec(max_restarts=None, isolate=True, children=(MINE,))
    found = with_services(top)
    assert [child.id for child in found.children] == [SERVICES, "mine"]
    assert (found.isolate, found.max_restarts, found.children[1]) == (True, None, MINE)


def test_the_broker_is_a_permanent_service_that_is_never_given_up() -> None:
    services = with_services(SupervisorSpec()).children[0].start
    assert isinstance(services, SupervisorSpec)
    check_supervisor(services)
    (broker,) = services.children
    assert isinstance(broker.start, Launch)
    assert (services.max_restarts, services.isolate, broker.id, broker.restart) == (None, True, BROKER, Restart.PERMANENT)
    assert (broker.start.kind, broker.start.ready, broker.start.watchdog) == ("service", "init", WATCHDOG)
    assert broker.start.script is not None and os.path.isfile(broker.start.script)
    assert broker.backoff is not None and broker.backoff.max == 5.0


def test_what_is_the_nodes_own_is_told_by_its_path() -> None:
    paths = ("top", "top/services", "top/services/broker", "top/s/services", "top/servicesx")
    assert [path for path in paths if is_own(path)] == ["top/services", "top/services/broker"]
    assert {SERVICES, BROKER} < OWN_NAMES
