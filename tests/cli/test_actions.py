"""The commands that change a running node: what they ask root and what they say."""

from __future__ import annotations

import pytest

from tests.cli.fake import FakeNode, fails


@pytest.mark.parametrize(
    ("arguments", "action", "done"),
    [
        (["child", "start"], "start", "started"),
        (["child", "stop"], "stop", "stopped"),
        (["child", "restart"], "restart", "restarted"),
        (["child", "delete"], "delete", "deleted"),
        (["restart"], "restart", "restarted"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_children_by_name(node: FakeNode, arguments: list[str], action: str, done: str) -> None:
    node.answers["child"] = [{"name": "feed", "ok": True}, {"name": "calc", "ok": True}]
    assert node.otpd(*arguments, "feed", "calc").stdout == f"feed: {done}\ncalc: {done}\n"
    assert node.asked("child") == [{"action": action, "names": ["feed", "calc"]}]


def test_children_in_json(node: FakeNode) -> None:
    node.answers["child"] = [{"name": "feed", "ok": True}]
    assert node.json("restart", "feed") == [{"name": "feed", "ok": True}]


def test_a_child_that_is_not_as_asked_is_exit_3(node: FakeNode) -> None:
    node.answers["child"] = fails(3, "feed: is running already", "look with: otpd status")
    assert node.otpd("child", "start", "feed", code=3).stderr.startswith("otpd: feed: is running already\n")


def test_some_that_failed_are_named_after_those_that_did_not(node: FakeNode) -> None:
    node.answers["child"] = [{"name": "feed", "ok": True}, {"name": "calc", "ok": False, "error": "did not start: x"}]
    done = node.otpd("restart", "feed", "calc", code=1)
    assert done.stdout == "feed: restarted\n"
    assert done.stderr == "otpd: calc: did not start: x\nnext: look with: otpd why calc\n"


def test_scale_names_what_came_and_went(node: FakeNode) -> None:
    node.answers["scale"] = {"added": ["feed-2", "feed-3"], "removed": []}
    assert node.otpd("scale", "feed", "3").stdout == "feed: added feed-2, feed-3\n"
    assert node.asked("scale") == [{"name": "feed", "n": 3}]


def test_scale_to_what_is_there_already(node: FakeNode) -> None:
    node.answers["scale"] = {"added": [], "removed": []}
    assert node.otpd("scale", "feed", "1").stdout == "feed: nothing to do, there is 1 instance\n"
    assert node.json("scale", "feed", "1") == {"added": [], "removed": []}


@pytest.mark.parametrize("word", ["TERM", "SIGTERM", "sigterm", "15"])
def test_a_signal_in_every_spelling(node: FakeNode, word: str) -> None:
    node.answers["signal"] = {"pid": 4720}
    assert node.otpd("signal", word, "feed").stdout == "feed: SIGTERM sent to pid 4720\n"
    assert node.asked("signal") == [{"signal": 15, "name": "feed"}]


def plan(**more: object) -> dict[str, object]:
    empty = {"empty": False, "removed": [], "added": [], "changed": [], "updated": [], "refused": []}
    return {**empty, "applied": False, "lines": ["start    web"], **more}


def test_reload_applies_and_says_what(node: FakeNode) -> None:
    node.answers["reload"] = plan(applied=True)
    assert node.otpd("reload").stdout == "start    web\napplied\n"
    (request,) = node.asked("reload")
    assert request["plan"] is False and request["spec"]["node"]["name"] == "shop"


def test_reload_plan_changes_nothing(node: FakeNode) -> None:
    node.answers["reload"] = plan()
    assert node.otpd("reload", "--plan").stdout == "start    web\nnothing was changed; apply it with: otpd reload\n"
    assert node.asked("reload")[0]["plan"] is True


def test_reload_in_json_is_the_plan_as_data(node: FakeNode) -> None:
    node.answers["reload"] = plan(applied=True, added=["web"])
    assert node.json("reload") == {key: value for key, value in plan(applied=True, added=["web"]).items() if key != "lines"}


def test_a_reload_that_root_refuses_is_exit_3(node: FakeNode) -> None:
    node.answers["reload"] = plan(refused=["node.name can't change while the node runs"], lines=[])
    done = node.otpd("reload", code=3)
    assert done.stderr.startswith("otpd: node.name can't change while the node runs\n")


def test_reload_with_a_broken_config_asks_root_nothing(node: FakeNode) -> None:
    (node.home / "otpd.toml").write_text('[node]\nnmae = "shop"\n[agents.a]\nscript = "missing.py"\n')
    done = node.otpd("reload", code=2)
    assert "otpd.toml:2:1: node.nmae" in done.stderr and "missing.py" in done.stderr
    assert node.asked("reload") == []
