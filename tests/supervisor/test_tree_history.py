"""A name that moves in the tree goes on counting: identity is (name, generation), wherever it lives."""

from __future__ import annotations

from otpd.supervisor.events import Boot, ChangeSpec, Effect, Exited, Request, RestartChild, Spawn, Started
from otpd.supervisor.spec import ChildSpec, ChildType, SupervisorSpec
from otpd.supervisor.tree import Tree


def spawns(effects: list[Effect]) -> list[tuple[str, int]]:
    return [(effect.path, effect.generation) for effect in effects if isinstance(effect, Spawn)]


def test_a_name_goes_on_counting_at_another_path_and_when_it_comes_back() -> None:
    one = ChildSpec(id="a", start="how")
    below = ChildSpec(id="s", start=SupervisorSpec(children=(one,)), type=ChildType.SUPERVISOR)
    top = SupervisorSpec(children=(one,), max_restarts=None)
    tree = Tree(ChildSpec(id="top", start=top, type=ChildType.SUPERVISOR))
    assert spawns(tree.handle(Boot(), 0.0)) == [("top/a", 1)]
    tree.handle(Started("top/a", 1), 0.0)
    assert spawns(tree.handle(Exited("top/a", 1, "killed"), 1.0)) == [("top/a", 2)]
    tree.handle(Started("top/a", 2), 1.0)

    tree.handle(Request(1, ChangeSpec("top", SupervisorSpec(children=(one, below), max_restarts=None))), 2.0)
    tree.adopt_history("top/s/a")
    assert spawns(tree.handle(Request(2, RestartChild("top", "s")), 2.0)) == [("top/s/a", 3)]

    tree.adopt_history("top/a")
    tree.handle(Started("top/s/a", 3), 3.0)
    assert spawns(tree.handle(Exited("top/a", 2, "killed"), 3.0)) == [("top/a", 4)]
    view = tree.view("top/a")
    assert view is not None
    assert view.restarts == 2


def test_a_name_that_never_lived_begins_at_one() -> None:
    top = SupervisorSpec(children=(ChildSpec(id="a", start="how"),))
    tree = Tree(ChildSpec(id="top", start=top, type=ChildType.SUPERVISOR))
    tree.adopt_history("top/a")
    assert spawns(tree.handle(Boot(), 0.0)) == [("top/a", 1)]
