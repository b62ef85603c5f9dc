"""A 404 says that somebody is unknown only where the system answers for somebody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treazure_pipeline.clients.absence import is_about_one
from treazure_pipeline.errors import Call, NotFoundError, TransientError

CALL = Call("engage", "GET", "/api/v2/point-accounts", 404, None)
EVERYBODY = ["one", "two", "three", "four"]


class System:
    """A system that knows some; from its `down`-th answer on it says 404 to everything, for `spell` answers."""

    def __init__(self, known: set[str], down: int = 99, spell: int = 0) -> None:
        self.known = known
        self.answers = 0
        self.spell = range(down, down + spell)

    def read(self, asked: str) -> object:
        self.answers += 1
        if asked not in self.known or self.answers - 1 in self.spell:
            raise NotFoundError("the request is refused.", CALL)
        return {}


def test_somebody_unknown_is_told_by_the_answer_for_somebody_else() -> None:
    assert is_about_one(System({"two"}).read, "one", lambda: ["two"])


@pytest.mark.parametrize("witnesses", [[], ["one"], ["ONE"], ["three", "four"]])
def test_without_a_witness_who_is_found_a_404_proves_nothing(witnesses: list[str]) -> None:
    assert not is_about_one(System({"two"}).read, "one", lambda: witnesses)


def test_an_unknown_witness_is_followed_by_the_next() -> None:
    assert is_about_one(System({"four"}).read, "one", lambda: ["two", "three", "four"])


def test_another_failure_of_the_witness_is_a_failure() -> None:
    def read(_: str) -> object:
        raise TransientError("there came nothing.", CALL)

    with pytest.raises(TransientError):
        is_about_one(read, "one", lambda: ["two"])


@given(st.sets(st.sampled_from(EVERYBODY[1:])), st.integers(1, 8))
def test_a_spell_of_404_never_makes_somebody_unknown_who_is_there(known: set[str], spell: int) -> None:
    system = System({"one", *known}, down=0, spell=spell)
    with pytest.raises(NotFoundError):
        system.read("one")

    assert not is_about_one(system.read, "one", lambda: EVERYBODY)
