"""Small parts: capped output, results, Landlock rules, when to look again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.sandbox import Result, SandboxError, landlock, records, watch
from otpd.agents.sandbox.landlock import Rule
from otpd.agents.sandbox.output import Capped


@given(st.integers(4, 400), st.lists(st.binary(max_size=200), max_size=20))
def test_capped_output_keeps_both_ends_and_counts_the_rest(cap: int, chunks: list[bytes]) -> None:
    kept = Capped(cap)
    for chunk in chunks:
        kept.feed(chunk)
    whole = b"".join(chunks)
    head = int(cap * 0.75)
    assert (kept.total, kept.truncated) == (len(whole), len(whole) > cap)
    if len(whole) <= cap:
        assert kept.content() == whole
    else:
        mark = f"\n[... {len(whole) - cap} bytes left out ...]\n".encode()
        assert kept.content() == whole[:head] + mark + whole[-(cap - head) :]


def test_capped_output_holds_no_more_than_it_must() -> None:
    kept = Capped(1000)
    for _ in range(100):
        kept.feed(b"x" * 65536)
    assert len(kept.content()) < 1100


def test_a_result_is_json_with_bytes_kept() -> None:
    table = json.loads(json.dumps(Result("r-1", "exited", exit_code=0, stdout=b"a\xff", limit_hits=("pids",)).to_dict()))
    assert (table["stdout"], table["stdout_b64"], table["ok"], table["limit_hits"]) == ("a\ufffd", "Yf8=", True, ["pids"])
    assert "stderr_b64" not in table


@pytest.mark.parametrize(
    ("result", "summary"),
    [
        (Result("r", "exited", exit_code=3), "exited 3"),
        (Result("r", "signaled", signal=11), "signaled SIGSEGV"),
        (Result("r", "killed", killed_by="memory", signal=9), "killed (memory)"),
        (Result("r", "refused", error={"text": "no.", "fix": "do", "code": "x", "layer": ""}), "refused: no."),
    ],
)
def test_a_result_in_few_words(result: Result, summary: str) -> None:
    assert result.summary() == summary


def test_check_raises_with_what_the_command_said() -> None:
    assert Result("r", "exited", exit_code=0).check().ok
    with pytest.raises(SandboxError, match="killed \\(timeout\\): last words Fix: it ran for longer"):
        Result("r", "killed", killed_by="timeout", stderr=b"last words\n").check()


def rules(abi: int, *given_rules: Rule, reading: bool = False, tcp: bool = True) -> list[tuple[int, object]]:
    found = records.read(b"".join(landlock.plan(abi, given_rules, reading=reading, tcp=tcp)))
    return [
        (each.kind, records.one_landlock(each.payload) if each.kind == 46 else records.one_allow(each.payload))
        for each in found
    ]


def test_landlock_as_second_layer_leaves_reading_alone() -> None:
    (head, rule) = rules(7, Rule("/tmp", landlock.SCRATCH))
    handled, net, scope = head[1]  # type: ignore[misc]
    assert (handled & landlock.READ, net, scope) == (0, 0, 3)
    assert rule == (47, (landlock.SCRATCH, "/tmp"))


def test_landlock_grants_no_fifo_and_no_socket_in_directories_of_the_host() -> None:
    assert landlock.GRANTED & (landlock.MAKE_FIFO | landlock.MAKE_SOCK | landlock.MAKE_CHAR | landlock.MAKE_BLOCK) == 0


def test_landlock_as_the_view_allows_reading_by_name_alone() -> None:
    (head, rule) = rules(7, Rule("/etc/hosts", 0, file=True), reading=True, tcp=False)
    handled, net, _ = head[1]  # type: ignore[misc]
    assert (handled & landlock.READ, net) == (landlock.READ, 3)
    assert rule == (47, (landlock.EXECUTE | landlock.READ_FILE, "/etc/hosts"))


@pytest.mark.parametrize(("abi", "absent"), [(1, landlock.REFER), (2, landlock.TRUNCATE), (4, landlock.IOCTL_DEV)])
def test_landlock_asks_an_older_kernel_for_nothing_that_it_does_not_know(abi: int, absent: int) -> None:
    ((_, (handled, net, scope)), *_) = rules(abi, Rule("/tmp", landlock.SCRATCH), tcp=False)  # type: ignore[misc]
    assert (handled & absent, scope) == (0, 0)
    assert net == (3 if abi >= 4 else 0)


def test_the_next_look_is_soon_when_little_is_left() -> None:
    assert watch.next_look(2**27, 2**27, 1.0) == pytest.approx(0.05)
    assert watch.next_look(2**27, 2**27, 0.0) == watch.SOONEST
    assert watch.next_look(0, 2**40, 0.0) == watch.LATEST
