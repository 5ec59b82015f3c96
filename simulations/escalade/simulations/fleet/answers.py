"""How a message's way ends, as kernels: answered above in time, answered below because it was not, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import Purpose, drawn
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.local import ABSTAIN, ACCEPT, DEFER, ESCALATE, NO_LIMIT, budget
from escalade.simulations.fleet.result import Count, Reason, Series
from escalade.simulations.fleet.rows import ANSWERED_0, ANSWERED_1, OPEN, UNREACHED, Status, Up
from escalade.simulations.fleet.sink import AT_UP, note_correction, note_end, note_fed, note_outcome, row_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk, Kinds


class Facts(NamedTuple):
    """What an answer depends on."""

    keys: NDArray[np.uint64]
    kinds: Kinds
    edge: Desk
    access: NDArray[np.int64]
    """Latency table of the way back from an edge node."""
    uplink: NDArray[np.int64]
    """The same, from a server."""
    right_0: NDArray[np.uint8]
    right_1: NDArray[np.uint8]
    right_2: NDArray[np.uint8]


@inline
def _end(facts: Any, sink: Any, rows: Any, i: Any, tier: Any, at: Any, why: Any, right: Any) -> None:
    cell, kind = rows[Up.CELL, i], rows[Up.KIND, i]
    note_end(
        sink, facts.keys[cell, Purpose.HASH], cell, rows[Up.RID, i], rows[Up.T, i], rows[Up.NUMBER, i], kind,
        facts.kinds.slo[kind], tier, at, why, right,
    )  # fmt: skip


@inline
def _fed_0(sink: Any, rows: Any, i: Any, known: Any, upper: Any, upper_row: Any) -> None:
    """Tell the endpoint's policy; `upper` -1: nobody above answered."""
    if upper >= 0:
        at = row_of(sink, known)
        sink.series[at, Series.ABOVE_0] += 1
        sink.series[at, Series.ABOVE_NS_0] += known - rows[Up.SENT_0, i]
    note_fed(
        sink, 0, known, rows[Up.CELL, i], rows[Up.RID, i], rows[Up.NUMBER, i], rows[Up.ROW_0, i], ESCALATE,
        rows[Up.PROPENSITY_0, i], rows[Up.SENT_0, i], upper, upper_row, known - rows[Up.SENT_0, i] if upper >= 0 else -1,
    )  # fmt: skip


@inline
def _fed_1(sink: Any, rows: Any, i: Any, action: Any, known: Any, upper: Any, upper_row: Any) -> None:
    """Tell the edge node's policy."""
    if upper >= 0:
        at = row_of(sink, known)
        sink.series[at, Series.ABOVE_1] += 1
        sink.series[at, Series.ABOVE_NS_1] += known - rows[Up.SENT_1, i]
    note_fed(
        sink, 1, known, rows[Up.CELL, i], rows[Up.RID, i], rows[Up.NUMBER, i], rows[Up.ROW_1, i], action, rows[Up.PROPENSITY_1, i],
        rows[Up.END if action != ESCALATE else Up.SENT_1, i], upper, upper_row,
        known - rows[Up.SENT_1, i] if upper >= 0 else -1,
    )  # fmt: skip


@inline
def _correct(facts: Any, sink: Any, rows: Any, i: Any, at: Any) -> None:
    note_correction(sink, facts.keys[rows[Up.CELL, i], Purpose.HASH], rows[Up.RID, i], rows[Up.T, i], at)


@inline
def _back(facts: Any, rows: Any, i: Any) -> Any:
    """Return the latency from the edge node to the endpoint."""
    return drawn(facts.access, facts.keys[rows[Up.CELL, i], Purpose.ACCESS_DOWN], rows[Up.RID, i])


@inline
def _deliver(facts: Any, sink: Any, rows: Any, i: Any, at: Any, tier: Any, why: Any, row: Any, right: Any) -> None:
    """Bring an answer of a tier to the endpoint; -1 for a policy's answer that there is none."""
    if rows[Up.FLAGS, i] & ANSWERED_0:
        if tier >= 0:
            _correct(facts, sink, rows, i, at)
        return
    limit = rows[Up.LIMIT_0, i]
    if at <= limit:
        _end(facts, sink, rows, i, tier, at, why, right)
        _fed_0(sink, rows, i, at, tier, row)
    else:
        _give_up_0(facts, sink, rows, i, limit, Reason.TIMEOUT)
        if tier >= 0:
            _correct(facts, sink, rows, i, at)


@inline
def _give_up_0(facts: Any, sink: Any, rows: Any, i: Any, at: Any, why: Any) -> None:
    """Let the endpoint answer itself, at its limit at the latest."""
    if rows[Up.FLAGS, i] & ANSWERED_0 == 0:
        if at > rows[Up.LIMIT_0, i]:
            at, why = rows[Up.LIMIT_0, i], Reason.TIMEOUT
        _end(facts, sink, rows, i, 0, at, why, facts.right_0[rows[Up.ROW_0, i]])
        _fed_0(sink, rows, i, at, -1, 0)
        rows[Up.FLAGS, i] |= ANSWERED_0


@inline
def _give_up_1(facts: Any, sink: Any, rows: Any, i: Any, at: Any, why: Any) -> None:
    """Let the edge node answer itself, at its limit at the latest."""
    if rows[Up.FLAGS, i] & ANSWERED_1 == 0:
        if at > rows[Up.LIMIT_1, i]:
            at, why = rows[Up.LIMIT_1, i], Reason.TIMEOUT
        row = rows[Up.ROW_1, i]
        _fed_1(sink, rows, i, ESCALATE, at, -1, 0)
        note_outcome(sink, 1, rows[Up.NUMBER, i], at, 0, 1, 0)
        _deliver(facts, sink, rows, i, at + _back(facts, rows, i), 1, why, row, facts.right_1[row])
        rows[Up.FLAGS, i] |= ANSWERED_0 | ANSWERED_1


@inline
def _why_not(status: Any) -> Any:
    if status == Status.REFUSED:
        return Reason.REFUSED
    if status == Status.DOWN:
        return Reason.UNAVAILABLE
    return Reason.TIMEOUT


@kernel
def below_0(facts: Any, sink: Any, rows: Any) -> None:
    """Let endpoints answer what did not get onto or over the access link; see `travel`."""
    for i in range(rows.shape[1]):
        flags, status = rows[Up.FLAGS, i], rows[Up.STATUS, i]
        if flags & OPEN:
            _give_up_0(facts, sink, rows, i, rows[Up.SENT_0, i], Reason.CIRCUIT_OPEN)
            rows[Up.LIMIT_0, i] = NO_LIMIT  # it is in the outbox
        elif flags & UNREACHED:
            _give_up_0(facts, sink, rows, i, rows[Up.SENT_0, i], Reason.UNAVAILABLE)
            rows[Up.LIMIT_0, i] = NO_LIMIT  # it is in the outbox
        rows[Up.FLAGS, i] &= ANSWERED_0 | ANSWERED_1
        if status == Status.REFUSED or status == Status.EVICTED:
            _give_up_0(facts, sink, rows, i, rows[Up.END, i], Reason.BUFFER_FULL)
        elif status == Status.LOST:
            _give_up_0(facts, sink, rows, i, rows[Up.LIMIT_0, i], Reason.TIMEOUT)


@kernel
def below_1(facts: Any, sink: Any, rows: Any) -> None:
    """Let edge nodes answer what did not get onto or over the uplink."""
    for i in range(rows.shape[1]):
        flags, status = rows[Up.FLAGS, i], rows[Up.STATUS, i]
        if flags & OPEN:
            _give_up_1(facts, sink, rows, i, rows[Up.SENT_1, i], Reason.CIRCUIT_OPEN)
            rows[Up.LIMIT_1, i] = NO_LIMIT  # it is in the outbox
        elif flags & UNREACHED:
            _give_up_1(facts, sink, rows, i, rows[Up.SENT_1, i], Reason.UNAVAILABLE)
            rows[Up.LIMIT_1, i] = NO_LIMIT  # it is in the outbox
        rows[Up.FLAGS, i] &= ANSWERED_0 | ANSWERED_1
        if status == Status.REFUSED or status == Status.EVICTED:
            _give_up_1(facts, sink, rows, i, rows[Up.END, i], Reason.BUFFER_FULL)
        elif status == Status.LOST:
            _give_up_1(facts, sink, rows, i, rows[Up.LIMIT_1, i], Reason.TIMEOUT)


@kernel
def turned_away(facts: Any, sink: Any, rows: Any) -> None:
    """Let endpoints answer what their edge node refused or did not come to; other rows are left alone."""
    for i in range(rows.shape[1]):
        status = rows[Up.STATUS, i]
        if status == Status.EXPIRED:
            _give_up_0(facts, sink, rows, i, rows[Up.LIMIT_0, i], Reason.TIMEOUT)
        elif status == Status.REFUSED or status == Status.DOWN:
            _give_up_0(facts, sink, rows, i, rows[Up.END, i] + _back(facts, rows, i), _why_not(status))


@kernel
def settle_edge(facts: Any, sink: Any, rows: Any, action: Any, propensity: Any, up: Any) -> None:
    """Carry out the edge nodes' decisions: note what ends here, append what goes up to `up`, ``[UP, room]``."""
    for i in range(action.shape[0]):
        what, end, row = action[i], rows[Up.END, i], rows[Up.ROW_1, i]
        rows[Up.PROPENSITY_1, i] = propensity[i] if propensity.shape[0] > 0 else 0
        home = end + _back(facts, rows, i)
        if what == ACCEPT:
            _fed_1(sink, rows, i, ACCEPT, end, -1, 0)
            note_outcome(sink, 1, rows[Up.NUMBER, i], end, 1, 1, 0)
            _deliver(facts, sink, rows, i, home, 1, Reason.OK, row, facts.right_1[row])
            continue
        if what == ABSTAIN:
            _fed_1(sink, rows, i, ABSTAIN, end, -1, 0)
            _deliver(facts, sink, rows, i, home, -1, Reason.ABSTAINED, 0, 0)
            continue
        if what == DEFER:
            _fed_1(sink, rows, i, ACCEPT, end, -1, 0)
            note_outcome(sink, 1, rows[Up.NUMBER, i], end, 1, 1, 0)
            _deliver(facts, sink, rows, i, home, 1, Reason.DEFERRED, row, facts.right_1[row])
            rows[Up.FLAGS, i] |= ANSWERED_0 | ANSWERED_1
            limit = NO_LIMIT
        else:
            sink.count[Count.ESCALATED_1] += 1
            note_outcome(sink, 1, rows[Up.NUMBER, i], end, 0, 0, 1)
            allowed = budget(
                NO_LIMIT if rows[Up.LIMIT_0, i] >= NO_LIMIT else rows[Up.LIMIT_0, i] - end,
                facts.edge.reserve, facts.edge.timeout,
            )  # fmt: skip
            if allowed <= 0 and rows[Up.AT, i] <= rows[Up.LIMIT_0, i]:
                _fed_1(sink, rows, i, ACCEPT, end, -1, 0)
                note_outcome(sink, 1, rows[Up.NUMBER, i], end, 0, 1, 0)
                _deliver(facts, sink, rows, i, home, 1, Reason.DEADLINE, row, facts.right_1[row])
                continue
            limit = end + (allowed if allowed > 0 else facts.edge.timeout)
        sink.count[Count.BYTES_1] += facts.edge.size
        sink.series[row_of(sink, end), Series.BYTES_1] += facts.edge.size
        n = sink.size[AT_UP]
        up[:, n] = rows[:, i]
        up[Up.SENT_1, n] = end
        up[Up.LIMIT_1, n] = limit
        up[Up.SIZE, n] = facts.edge.size
        up[Up.STATUS, n] = Status.DONE
        sink.size[AT_UP] = n + 1


@kernel
def settle_server(facts: Any, sink: Any, rows: Any) -> None:
    """Bring the servers' answers home; `rows` are those that a server is done with, one way or the other."""
    for i in range(rows.shape[1]):
        status = rows[Up.STATUS, i]
        if status == Status.EXPIRED:
            _give_up_1(facts, sink, rows, i, rows[Up.LIMIT_1, i], Reason.TIMEOUT)
            continue
        at = rows[Up.END, i] + drawn(facts.uplink, facts.keys[rows[Up.CELL, i], Purpose.UPLINK_DOWN], rows[Up.RID, i])
        if status != Status.DONE:
            _give_up_1(facts, sink, rows, i, at, _why_not(status))
            continue
        home, row = at + _back(facts, rows, i), rows[Up.ROW_2, i]
        if rows[Up.FLAGS, i] & ANSWERED_1 == 0 and at <= rows[Up.LIMIT_1, i]:
            _fed_1(sink, rows, i, ESCALATE, at, 2, row)
            note_outcome(sink, 1, rows[Up.NUMBER, i], at, 1, 1, 0)
            _deliver(facts, sink, rows, i, home, 2, Reason.OK, row, facts.right_2[row])
        else:
            _give_up_1(facts, sink, rows, i, rows[Up.LIMIT_1, i], Reason.TIMEOUT)
            _correct(facts, sink, rows, i, home)


@kernel
def time_out(facts: Any, sink: Any, rows: Any, t1: Any, edge: Any) -> None:
    """Let tiers answer what is still under way above them at `t1`, after their limit; `edge`: edge nodes too."""
    for i in range(rows.shape[1]):
        if edge and rows[Up.LIMIT_1, i] < t1:
            _give_up_1(facts, sink, rows, i, rows[Up.LIMIT_1, i], Reason.TIMEOUT)
        if rows[Up.LIMIT_0, i] < t1:
            _give_up_0(facts, sink, rows, i, rows[Up.LIMIT_0, i], Reason.TIMEOUT)
