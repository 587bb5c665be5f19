"""What the tree shows of itself, at any moment."""

from __future__ import annotations

from otpd.supervisor.events import Boot, Exited, StartChild, StartIgnored, StopTree, TerminateChild
from otpd.supervisor.spec import AutoShutdown, Backoff, Restart, Strategy
from otpd.supervisor.tree import NOTICES, SupervisorView, WorkerView
from tests.supervisor.rig import Rig, supervisor, worker


def test_a_worker_before_during_and_after_its_life() -> None:
    rig = Rig(worker("a", restart=Restart.TRANSIENT), max_restarts=9)
    assert (rig.view("a").state, rig.view("a").generation) == ("stopped", 0)
    rig.feed(Boot())
    assert rig.view("a").state == "starting"
    rig.at(3.0).up("a")
    assert rig.view("a") == WorkerView(
        name="a",
        path="top/a",
        state="running",
        generation=1,
        restarts=0,
        spec=worker("a", restart=Restart.TRANSIENT),
        ready_at=3.0,
    )
    rig.gone("a", "error(1)")
    assert (rig.view("a").state, rig.view("a").restarts, rig.view("a").reason) == ("restarting", 1, "error(1)")
    rig.up("a")
    rig.ask(TerminateChild("top", "a"))
    assert rig.view("a").state == "stopping"
    rig.gone("a", "shutdown")
    assert (rig.view("a").state, rig.view("a").reason) == ("stopped", "shutdown")


def test_a_supervisor_shows_its_flags_its_budget_and_what_it_is_doing() -> None:
    rig = Rig(
        supervisor("s", worker("x"), worker("y"), strategy=Strategy.REST_FOR_ONE, max_restarts=4, max_seconds=9)
    ).boot()
    rig.at(50.0).gone("s/x")
    rig.ask(TerminateChild("top/s", "y"))
    view = rig.view("s")
    assert isinstance(view, SupervisorView)
    shown = (view.type, view.state, view.strategy, view.max_restarts, view.max_seconds, view.restarts_in_window)
    assert shown == ("supervisor", "running", "rest_for_one", 4, 9, 1)
    assert (view.doing, view.queued) == ("restart", 1)
    assert [child.state for child in view.children] == ["restarting", "stopping"]
    assert rig.tree.busy


def test_the_picture_is_there_while_everything_waits_for_one_start() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x")), worker("b"))
    rig.feed(Boot())
    assert rig.states() == {"a": "starting", "s": "starting", "s/x": "starting", "b": "starting"}
    rig.up("a")
    rig.feed(StopTree(urgent=True))
    assert rig.tree.stopping
    rig.settle()
    assert rig.states() == {"a": "stopped", "s": "stopped", "s/x": "stopped", "b": "stopped"}
    assert rig.tree.snapshot().state == "stopped"


def test_a_tree_that_gave_up_is_shown_as_failed() -> None:
    rig = Rig(worker("a"), max_restarts=0).boot()
    rig.crash("a")
    assert rig.tree.snapshot().state == "failed"


def test_children_are_found_by_name_and_by_path() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x"), worker("a"))).boot()
    found = [rig.tree.find(name) for name in ("x", "a", "top/s/a", "s", "nobody", "top/s/nobody")]
    assert found == [["top/s/x"], ["top/a", "top/s/a"], ["top/s/a"], ["top/s"], [], []]
    rig.request(TerminateChild("top", "s"))
    assert (rig.tree.find("x"), rig.view("s/x").state) == (["top/s/x"], "stopped")
    assert rig.tree.view("top/nobody") is None


def test_living_are_those_who_may_have_a_process() -> None:
    rig = Rig(worker("a"), supervisor("s", worker("x")), worker("b"))
    rig.feed(Boot())
    rig.up("a")
    assert rig.tree.living() == [("top/a", 1), ("top/s/x", 1)]


def test_every_kind_of_notice_comes_with_the_data_of_the_catalogue() -> None:
    significant = worker("e", restart=Restart.TRANSIENT, significant=True)
    rig = Rig(
        worker("a", restart=Restart.TEMPORARY),
        supervisor("s", worker("x"), significant, auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, max_restarts=0),
        worker("w", backoff=Backoff(jitter=0.0)),
        worker("i"),
        max_restarts=4,
        gate=lambda path, generation: StartIgnored(path, generation) if (path, generation) == ("top/s", 4) else None,
    )
    rig.fails["i"] = "ignore"
    rig.boot()
    rig.crash("a")  # is removed
    rig.crash("s/e", "normal")  # auto_shutdown
    rig.crash("s/x")  # gives up
    rig.feed(Exited("top/s", 3, "killed"))
    rig.settle()  # the fourth start of s declines
    rig.fails["w"] = "boom"
    rig.crash("w")  # start_error, then back-off
    rig.fails["m/z"] = "boom"
    rig.request(StartChild("top", supervisor("m", worker("z"))))
    rig.request(StartChild("top", worker("n", shutdown=1.0)))
    rig.start_own("n", worker("own"))
    rig.up("n/own")
    rig.feed(StopTree())
    rig.gone("n", "error(1)")
    rig.gone("n/own")
    for notice in rig.notices:
        assert set(notice.data) == set(NOTICES[notice.kind][1]), notice
    assert set(NOTICES) - {notice.kind for notice in rig.notices} == set()
