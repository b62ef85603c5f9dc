"""The adversary in small: the same stories each time, and some that nobody has played (`make soak` plays more)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from treazure_pipeline_tests.adversary.story import HOLDING, Player, fresh_seed, player

FIXED = range(1, 7)
FRESH = 2


@pytest.fixture
def playing(database_url: str) -> Iterator[Player]:
    with player(database_url) as ready:
        yield ready


def test_nothing_is_lost_or_doubled_in_stories_that_are_played_each_time(playing: Player) -> None:
    assert [found for seed in FIXED if (found := playing.play(seed, HOLDING))] == []


def test_nothing_is_lost_or_doubled_in_stories_that_nobody_has_played(playing: Player) -> None:
    first = fresh_seed()
    print(f"seeds {first} to {first + FRESH - 1}, kinds {','.join(HOLDING)}")  # noqa: T201 - what replays it
    assert [found for seed in range(first, first + FRESH) if (found := playing.play(seed, HOLDING))] == []


@pytest.mark.parametrize("part", ["look-up"])
def test_the_adversary_finds_what_is_missing(playing: Player, part: str) -> None:
    assert any(playing.play(seed, ["lost"], part) for seed in range(6, 16))
