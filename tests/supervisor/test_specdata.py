"""A NodeSpec survives the way through msgpack exactly, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.supervisor import spec
from otpd.supervisor.spec import ChildSpec, Launch, LogPolicy, NodeSpec, SupervisorSpec
from otpd.supervisor.specdata import (
    VERSION,
    SpecDataError,
    _Reader,
    child_from_data,
    from_data,
    plain,
    supervisor_from_data,
    to_data,
)

_text = st.text(max_size=5)
_float = st.floats(0, 1e9)
_data = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=5,
)


_maybe_int = st.none() | st.integers(0, 2**40)
_backoff = st.builds(spec.Backoff, initial=_float, factor=_float, max=_float, jitter=_float, reset_after=_float)
_limits = st.builds(
    spec.Limits, memory=_maybe_int, files=_maybe_int, cpu=_maybe_int, processes=_maybe_int, core=_maybe_int
)
_argv = st.lists(_text, max_size=3).map(tuple)
_ready = st.sampled_from(["init", "spawned", "notify"]) | (
    st.builds(spec.TcpReady, port=st.integers(1, 65535), host=_text)
    | st.builds(spec.ExecReady, argv=_argv)
    | st.builds(spec.HttpReady, url=_text)
)
_probed = (
    st.just("call")
    | st.builds(spec.TcpReady, port=st.integers(1, 65535), host=_text)
    | st.builds(spec.ExecReady, argv=_argv)
)
_health = st.builds(
    spec.Health,
    check=_probed,
    interval=_float,
    timeout=_float,
    failures=st.integers(1, 9),
    successes=st.integers(1, 9),
    grace=_float,
    action=st.sampled_from(["report", "restart"]),
)
_restart_when = st.builds(
    spec.RestartWhen, memory=_maybe_int, cpu=st.none() | _float, cpu_over=_float, files=_maybe_int, age=st.none() | _float
)
_launch = st.builds(
    Launch,
    kind=st.sampled_from(["agent", "program", "service", "pool"]),
    script=st.none() | _text,
    command=st.none() | _argv,
    args=st.dictionaries(_text, _data, max_size=3),
    argv=_argv,
    ready=_ready,
    start_timeout=_float,
    stop_signal=st.integers(1, 64),
    env=st.dictionaries(_text, _text, max_size=2),
    cwd=_text,
    user=st.none() | _text,
    umask=st.none() | st.integers(0, 0o777),
    limits=_limits,
    watchdog=st.none() | _float,
    health=st.none() | _health,
    restart_when=st.none() | _restart_when,
    group=st.none() | _text,
    detach=st.booleans(),
)


def _supervisor(child: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        SupervisorSpec,
        strategy=st.sampled_from(spec.Strategy),
        max_restarts=st.none() | st.integers(0, 9),
        max_seconds=st.integers(1, 9),
        auto_shutdown=st.sampled_from(spec.AutoShutdown),
        children=st.lists(child, max_size=3).map(tuple),
        dynamic=st.none() | st.sampled_from(spec.Dynamic),
        template=st.none() | child,
        max_children=st.none() | st.integers(0, 9),
        isolate=st.booleans(),
    )


def _child(start: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        ChildSpec,
        id=_text,
        start=start,
        restart=st.sampled_from(spec.Restart),
        shutdown=_float | st.sampled_from(["brutal_kill", "infinity"]),
        type=st.sampled_from(spec.ChildType),
        significant=st.booleans(),
        backoff=st.none() | _backoff,
    )


_children = st.recursive(_child(_launch), lambda inner: _child(_supervisor(inner)), max_leaves=3)
_log = st.builds(
    LogPolicy, max_bytes=st.integers(1, 2**40), keep=st.integers(0, 9), full=st.sampled_from(["drop", "block"])
)
_services = st.dictionaries(_text, st.dictionaries(_text, st.booleans() | st.integers(0, 2**40), max_size=2), max_size=2)
_node = st.builds(
    NodeSpec, name=_text, state_dir=_text, config=_text, top=_supervisor(_children), log=_log, services=_services
)


@given(_node)
def test_every_node_survives_msgpack_exactly(node: NodeSpec) -> None:
    again = from_data(msgpack.unpackb(msgpack.packb(to_data(node))))
    assert again == node
    assert repr(again) == repr(node)  # types too: 1 is not 1.0, a tuple is no list


@given(_children)
def test_a_child_and_a_supervisor_alone_travel_the_same_way(child: ChildSpec) -> None:
    assert child_from_data(msgpack.unpackb(msgpack.packb(to_data(child)))) == child
    above = SupervisorSpec(children=(child, child))
    assert supervisor_from_data(msgpack.unpackb(msgpack.packb(to_data(above)))) == above
    with pytest.raises(SpecDataError, match="expected the fields of NodeSpec, got NoneType"):
        from_data(to_data(child))


SMALL = NodeSpec(
    name="shop",
    state_dir="/s",
    config="/c",
    top=SupervisorSpec(children=(ChildSpec(id="a", start=Launch(kind="agent", script="/a.py")),)),
)


def test_every_field_of_every_spec_can_be_read() -> None:
    kinds = (NodeSpec, LogPolicy, SupervisorSpec, ChildSpec, Launch, spec.Limits, spec.Backoff, spec.TcpReady)
    kinds += (spec.Health, spec.RestartWhen)
    known = _Reader(()).parsers
    assert [item for kind in kinds for item in dataclasses.fields(kind) if item.type not in known] == []


def test_ten_thousand_instances_fit_into_one_request() -> None:
    start = Launch(kind="agent", script="/a.py", env={"A": "x" * 1000})
    children = tuple(ChildSpec(id=f"feed-{n}", start=start, backoff=spec.Backoff()) for n in range(10_000))
    node = dataclasses.replace(SMALL, top=SupervisorSpec(children=children))
    packed = msgpack.packb(to_data(node))
    assert len(packed) < 2**20
    assert from_data(msgpack.unpackb(packed)) == node


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "expected a node spec of otpd, got NoneType without a version (otpd_spec)"),
        ({}, "expected a node spec of otpd, got dict without a version (otpd_spec)"),
        ({"otpd_spec": True}, "expected a node spec of otpd, got dict without a version (otpd_spec)"),
        (
            {"otpd_spec": VERSION + 1},
            f"expected version {VERSION} of the node spec, got version {VERSION + 1}: it is of a newer otpd; "
            "restart the node with the otpd that you call now",
        ),
        (
            {"otpd_spec": 0},
            f"expected version {VERSION} of the node spec, got version 0: it is of an older otpd; "
            "restart the node with the otpd that you call now",
        ),
        ({"otpd_spec": VERSION}, "expected list, got None"),
        ({"otpd_spec": VERSION, "launches": []}, "expected the fields of NodeSpec, got NoneType"),
        ({"otpd_spec": VERSION, "launches": [{}]}, "Launch lacks its field 'kind'"),
        (
            {"otpd_spec": VERSION, "launches": [{"kind": "x"}]},
            "Launch.kind: expected one of agent, program, service, pool, got 'x'",
        ),
        (
            {"otpd_spec": VERSION, "launches": [{"kind": []}]},
            "Launch.kind: expected one of agent, program, service, pool, got []",
        ),
        ({"otpd_spec": VERSION, "launches": [], "node": {"nme": 1}}, "NodeSpec has no field 'nme'"),
        ({"otpd_spec": VERSION, "launches": [], "node": {1: 1}}, "NodeSpec has no field 1"),
    ],
)
def test_what_is_no_node_spec_is_refused_with_the_reason(data: object, message: str) -> None:
    with pytest.raises(SpecDataError) as caught:
        from_data(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1}, "expected a supervisor or the number of a launch, got 1"),
        ({"start": -1}, "expected a supervisor or the number of a launch, got -1"),
        ({"start": True}, "expected a supervisor or the number of a launch, got True"),
        ({"id": 3}, "expected str, got 3"),
        ({"restart": "always"}, "unexpected 'always'"),
        ({"restart": []}, "unexpected []"),
        ({"shutdown": "soon"}, "expected one of brutal_kill, infinity, got 'soon'"),
        ({"shutdown": None}, "expected float or int, got None"),
        ({"backoff": 3}, "expected the fields of Backoff, got int"),
    ],
)
def test_a_bad_field_is_named_with_its_path(change: dict[str, Any], message: str) -> None:
    data = to_data(SMALL)
    child = data["node"]["top"]["children"][0]
    child.update(change)
    with pytest.raises(SpecDataError) as caught:
        from_data(data)
    field = next(iter(change))
    assert str(caught.value) == f"NodeSpec.top: SupervisorSpec.children: ChildSpec.{field}: {message}"


def test_data_nested_without_end_is_refused() -> None:
    child: dict[str, Any] = {"id": "a", "start": 0}
    for _ in range(5000):
        child = {"id": "a", "start": {"children": [child]}}
    data = {**to_data(SMALL), "node": {"name": "a", "state_dir": "", "config": "", "top": {"children": [child]}}}
    with pytest.raises(SpecDataError, match="nested too deeply"):
        from_data(data)


_garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "start", "children", "backoff", "ready", "kind", "top"]) | _text, inner
        )
    ),
    max_leaves=10,
)


@given(_garbage, _garbage)
def test_garbage_is_refused_and_never_crashes(node: object, launch: object) -> None:
    with pytest.raises(SpecDataError):
        from_data({"otpd_spec": VERSION, "node": node, "launches": [launch]})


def test_plain_shows_every_field() -> None:
    assert plain(spec.TcpReady(port=1)) == {"port": 1, "host": "127.0.0.1"}
    assert type(plain(spec.Restart.PERMANENT)) is str
    assert set(plain(SMALL)["top"]["children"][0]) == {item.name for item in dataclasses.fields(ChildSpec)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_refused(value: float) -> None:
    """It would be a deadline that never comes and keeps all others from coming."""
    child = to_data(ChildSpec(id="a", start=Launch(kind="program", start_timeout=value)))
    with pytest.raises(SpecDataError, match="expected a finite number"):
        child_from_data(child)
