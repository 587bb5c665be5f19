"""`otpd metrics` of a node whose services are down: what root knows, and why there is no more."""

from __future__ import annotations

from tests.cli.fake import FakeNode, fails


def test_root_alone_tells_what_it_knows_and_what_is_missing(node: FakeNode) -> None:
    text = node.otpd("metrics").stdout
    assert "# TYPE otpd_child_running gauge\n" in text
    assert text.endswith("# without what is counted from events: broker is not in this node\n")
    found = node.json("metrics")
    assert found["without"] == "broker is not in this node"
    assert {each["name"] for each in found["metrics"]} >= {"otpd_node_info", "otpd_children", "otpd_child_restarts_total"}


def test_what_the_broker_knows_is_added_and_any_other_error_is_one(node: FakeNode) -> None:
    node.answers["stats"] = [{"name": "feed", "kind": "agent", "inbox": 3, "breaker": "open"}]
    text = node.otpd("metrics").stdout
    assert 'otpd_inbox_messages{name="feed"} 3\n' in text
    assert 'otpd_breaker_open{name="feed"} 1\n' in text
    node.answers["stats"] = fails(70, "the answer is too long")
    assert "the answer is too long" in node.otpd("metrics", code=70).stderr
