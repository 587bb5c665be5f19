"""Every service is killed in turn and in every pair, and stopped for ten seconds, while agents use them: the rest works."""

from __future__ import annotations

import itertools

import pytest

from tests.chaos.inturn import ACTORS, SERVICES, finish, scene
from tests.e2e.node import ALL_SERVICES

PAIRS = list(itertools.combinations(SERVICES, 2))


@pytest.mark.timeout(600)
def test_all_services_are_killed_at_once_and_nothing_is_lost_that_was_not_on_its_way_through_the_broker() -> None:
    """K1, K5, T33: the short form, without commands and tasks."""
    with scene(3, ACTORS[:2], ALL_SERVICES, more="") as (rounds, facts):
        rounds.kill(*ALL_SERVICES)
        finish(rounds, facts)
    assert rounds.problems == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_services_are_killed_in_turn_and_in_every_pair_and_stopped_for_ten_seconds(seed: int) -> None:
    """K1, K3, K5, T33: what is lost, kept and delayed is what docs/services.md says."""
    with scene(seed) as (rounds, facts):
        for victims in [*itertools.combinations(SERVICES, 1), *PAIRS]:
            rounds.kill(*victims)
        for victim in SERVICES:
            rounds.stop(victim, 10.0)
        verdict = finish(rounds, facts)
    print(f"seen: {dict(rounds.seen)}\nfacts: {dict(verdict.facts)}\ncalls: {dict(verdict.outcomes)}")
    print("problems:", *rounds.problems, sep="\n")
    assert rounds.problems == []
    assert {name for name in SERVICES if not rounds.seen[f"{name} down"]} == set()
