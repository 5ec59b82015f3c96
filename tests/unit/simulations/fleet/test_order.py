"""Messages are sorted by time, then by cell and number, however their times are spread."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from escalade.simulations.fleet.order import arriving, by_sending
from escalade.simulations.fleet.rows import UP, Up

TIMES = st.sampled_from(["even", "equal", "one far away"])


@given(TIMES, st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_the_order_is_by_time_then_cell_then_number(times: str, n: int, seed: int) -> None:
    """With even times, with ties of any number, and where all but one stand in one bucket and are sorted otherwise."""
    random = np.random.default_rng(seed)
    rows = np.zeros((n, UP), np.int64)
    rows[:, Up.AT] = random.integers(0, 5 if times == "equal" else 10**9, n)
    if times == "one far away" and n:
        rows[0, Up.AT] = 10**18
    rows[:, Up.CELL] = random.integers(0, 3, n)
    rows[:, Up.RID] = random.permutation(n)
    rows[:, Up.SENT_1], rows[:, Up.END] = rows[:, Up.AT], random.integers(-1, 1, n)
    expected = np.lexsort((rows[:, Up.RID], rows[:, Up.CELL], rows[:, Up.AT]))
    assert by_sending(rows, Up.SENT_1).tolist() == expected.tolist()
    new = (rows[:, Up.END] < 0) & (rows[:, Up.AT] < 5 * 10**8)
    assert arriving(rows, 5 * 10**8).tolist() == [i for i in expected.tolist() if new[i]]
