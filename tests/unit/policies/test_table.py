"""A compiled table decides as its policy does, in Python and in C."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from escalade.policies import (
    Action,
    AlwaysAccept,
    AlwaysEscalate,
    Batch,
    Budgeted,
    CostAware,
    DeadlineAware,
    Decisions,
    Explore,
    FirstOf,
    Policy,
    SloController,
    Threshold,
    to_c_header,
    to_table,
)

COMPILER = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)


def said(value: object) -> str:
    """Name a parameter the same in every process."""
    text = repr(value)
    return type(value).__name__ if " object at 0x" in text else text


class Bands(Policy):
    """Defers in the middle, abstains at the very bottom."""

    def decide(self, batch: Batch) -> Decisions:
        edges = np.array([-3.5, 0.25, 0.7], np.float32)
        actions = np.array([Action.ABSTAIN, Action.ESCALATE, Action.DEFER, Action.ACCEPT], np.int8)
        place = np.where(np.isnan(batch.score), 0, np.searchsorted(edges, batch.score, side="right"))
        return Decisions.of(actions[place])


class Odd(Policy):
    """Accepts scores between thousandths only: more boundaries than a coarse table sees."""

    def decide(self, batch: Batch) -> Decisions:
        odd = np.where(np.isfinite(batch.score), batch.score, 0.0).astype(np.float64) * 50_000 % 2 >= 1
        return Decisions.of(np.where(odd, 0, 1))


class AcceptsNan(Policy):
    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.zeros(len(batch), np.int8))


POLICIES: list[Policy] = [
    Threshold(0.8),
    Threshold(0.1 + 0.2),
    Threshold(float("-inf")),
    Threshold(float("inf")),
    Threshold(1e-42),
    Threshold(0.0),
    Threshold(-17.25),
    AlwaysAccept(),
    AlwaysEscalate(),
    FirstOf([Threshold(0.6), Threshold(0.9)]),
    CostAware(1.0, 0.9, price_request=0.05),
    SloController(0.4),
    Bands(),
]


def bit_patterns(count: int) -> NDArray[np.float32]:
    """Return float32 numbers of every kind: all exponents, nan, infinities, both zeros, subnormals, ties."""
    rng = np.random.default_rng(0)
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001, 1, 0x80000001])
    bits = np.concatenate([rng.integers(0, 2**32, count), special]).astype(np.uint32)
    near = np.array([0.8, 0.3, 0.7, 0.25, 0.6, -3.5, 1e-42, 0.85, 0.4, -17.25], np.float32)
    around = np.concatenate([np.nextafter(near, np.float32(step)) for step in (-np.inf, np.inf)])
    return np.concatenate([bits.view(np.float32), near, around, rng.random(count).astype(np.float32)])


@pytest.mark.parametrize("policy", POLICIES, ids=said)
def test_a_table_decides_as_its_policy(policy: Policy) -> None:
    """On half a million float32 numbers of every kind, for arrays; on some, one by one."""
    table, score = to_table(policy), bit_patterns(250_000)
    expected = policy.decide(Batch.of(score)).action
    assert np.array_equal(table.decide_all(score), expected)
    assert len(table.threshold) <= 3
    for one, action in list(zip(score[-300:], expected[-300:], strict=True)) + list(
        zip(score[:300], expected[:300], strict=True)
    ):
        assert table.decide(float(one)) == action


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([8, 12]))
def test_the_boundary_is_the_threshold_itself(threshold: float, bits: int) -> None:
    """Bisection ends at the very float32 number, however coarse the probes and wherever it is."""
    table = to_table(Threshold(threshold), bits=bits)
    assert table.threshold.tolist() == [np.float32(threshold)]
    assert table.action.tolist() == [1, 0]


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler (cc, gcc or clang)")
@pytest.mark.parametrize("flags", [["-O0"], ["-O3", "-ffast-math"]], ids=["plain", "fast-math"])
def test_the_header_decides_as_the_policy_when_compiled(flags: list[str], tmp_path: Path) -> None:
    """All policies' headers in one C99 program, warnings being errors, over 20,000 bit patterns of every kind."""
    assert COMPILER is not None
    score = bit_patterns(10_000)
    for number, policy in enumerate(POLICIES):
        (tmp_path / f"p{number}.h").write_text(to_c_header(to_table(policy), f"p{number}"))
    numbers = range(len(POLICIES))
    includes = "\n".join(f'#include "p{number}.h"' for number in numbers)
    calls = "\n".join(f"        putchar('0' + p{number}_decide(score));" for number in numbers)
    (tmp_path / "main.c").write_text(
        f"#include <stdio.h>\n{includes}\nint main(void)\n{{\n    float score;\n"
        f"    while (fread(&score, sizeof score, 1, stdin) == 1) {{\n{calls}\n    }}\n    return 0;\n}}\n"
    )
    program = tmp_path / "main"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    subprocess.run([COMPILER, *strict, *flags, "main.c", "-o", str(program)], cwd=tmp_path, check=True, timeout=60)
    said = subprocess.run([program], input=score.tobytes(), capture_output=True, check=True, timeout=60).stdout
    found = np.frombuffer(said, np.uint8).reshape(len(score), -1) - ord("0")
    for number, policy in enumerate(POLICIES):
        assert np.array_equal(found[:, number], policy.decide(Batch.of(score)).action), repr(policy)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Budgeted(Threshold(0.5), share=0.5), "has a memory"),
        (Explore(Threshold(0.5), epsilon=0.01), "a random number"),
        (DeadlineAware(Threshold(0.5)), "several things"),
        (CostAware(1.0, price_bytes=1e-6), "the size of the input"),
        (CostAware(1.0, price_ms=1e-3), "the latency of the tier above"),
        (AcceptsNan(), "accepts a score that is no number"),
        (Odd(), "more than once"),
    ],
    ids=said,
)
def test_what_a_table_cannot_do_is_refused_with_the_reason(policy: Policy, reason: str) -> None:
    """Memory, chance and anything beside the score have no place in a table."""
    with pytest.raises(ValueError, match=reason):
        to_table(policy, bits=8)


def test_devices_that_differ_are_noticed() -> None:
    """A controller that was retuned has a threshold a device."""
    policy = SloController(0.4)
    policy.load_state_dict({"device": np.arange(1000), "threshold": np.linspace(0, 1, 1000, dtype=np.float32)})
    with pytest.raises(ValueError, match="the device"):
        to_table(policy)


def test_wrong_arguments_are_refused() -> None:
    """Resolution, range and the C name are checked."""
    with pytest.raises(ValueError, match="bits must be 8 to 20"):
        to_table(Threshold(0.5), bits=7)
    with pytest.raises(ValueError, match="low must be below high"):
        to_table(Threshold(0.5), low=1, high=0)
    with pytest.raises(ValueError, match="'2x' is no C identifier"):
        to_c_header(to_table(Threshold(0.5)), "2x")
