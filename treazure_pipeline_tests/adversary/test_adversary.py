"""The adversary in small: the same stories each time, and some that nobody has played (`make soak` plays more)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from treazure_pipeline_tests.adversary.mutants import PARTS
from treazure_pipeline_tests.adversary.player import Player, player
from treazure_pipeline_tests.adversary.story import KINDS
from treazure_pipeline_tests.effort import EFFORT

FIXED = range(1, 1 + 3 * EFFORT)
FRESH = 2 * EFFORT
# The adversary finds this one in its first story.
PART = "404 proves nothing"

pytestmark = [pytest.mark.chance, pytest.mark.timeout(300 * EFFORT)]


@pytest.fixture
def playing(server_url: str) -> Iterator[Player]:
    with player(server_url) as ready:
        yield ready


def test_nothing_is_lost_or_doubled_in_stories_that_are_played_each_time(playing: Player) -> None:
    assert [found for seed in FIXED if (found := playing.play(seed, KINDS))] == []


def test_nothing_is_lost_or_doubled_in_stories_that_nobody_has_played(playing: Player) -> None:
    first = uuid.uuid4().int % 10**9
    print(f"--seed {first} --stories {FRESH}")  # noqa: T201 - what replays them
    assert [found for seed in range(first, first + FRESH) if (found := playing.play(seed, KINDS))] == []


def test_the_adversary_finds_what_is_missing(playing: Player) -> None:
    assert any(playing.play(seed, PARTS[PART].kinds, PART) for seed in range(1, 21))
