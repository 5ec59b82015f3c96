"""The fuzz targets without a fuzzer: the corpus, and inputs that a seeded mutator makes of it."""

from __future__ import annotations

import pytest
from fuzz.mutate import mutated
from fuzz.seeds import CORPUS, all_seeds
from fuzz.targets import TARGETS

COUNT = 20_000
SLOW = {"archive": 250}
"""Targets that write files."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_raises_nothing_but_what_it_promises(name: str) -> None:
    """On every input of the corpus, and on thousands that are a few bytes away from one."""
    seeds = [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
    assert seeds
    for data in (*seeds, *mutated(seeds, SLOW.get(name, COUNT))):
        TARGETS[name](data)


def test_the_mutator_makes_the_same_of_the_same() -> None:
    """So that what a run found is found again."""
    seeds = [b"first", b"the second"]
    assert list(mutated(seeds, 50, 3)) == list(mutated(seeds, 50, 3))
    assert list(mutated(seeds, 50, 3)) != list(mutated(seeds, 50, 4))


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    """A decoder that is added is fuzzed from something that it accepts."""
    assert set(all_seeds()) == set(TARGETS) == {folder.name for folder in CORPUS.iterdir()}
