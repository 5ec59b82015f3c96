"""Views of fused events: what each says, `Sights`; and a cell's, from the event until they leave for the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile
from zlib import error as zlib_error

import numpy as np

from escalade.policies import softmax
from escalade.simulations.fleet.columns import uniforms
from escalade.simulations.fleet.draws import Purpose, below
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.result import Count, Series
from escalade.simulations.fleet.rows import ANSWERED_0, ANSWERED_1, FAR, SEEN, UP, Seen, Status, Up
from escalade.simulations.fleet.sources import event_source
from escalade.simulations.fleet.tables import parametric
from escalade.tiers.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.simulations.fleet.book import Book
    from escalade.simulations.fleet.compiled import World
    from escalade.simulations.fleet.scenario import Scenario

    Rows = NDArray[np.int64]

VIEW_RID = 1 << 50
"""A view's number in its cell is this, 16 times its event's and its place: behind those of all requests."""
NO_KIND = -1
"""In the place of a class of endpoints: the message is a view."""
WELL, STUCK, NOISY, DEAD = range(4)
_KINDS = {"stuck": STUCK, "noisy": NOISY, "dead": DEAD}
_NOISE_ROWS, _SEED = 4096, 20_250_211


@dataclass(frozen=True, slots=True, eq=False)
class Sights:
    """What the views of `N` samples say, each sample's `V` views of one object.

    Attributes
    ----------
    posterior
        float32 ``[N, V, C]``.
    truth
        int64 ``[N]``.
    noise
        float32 ``[4096, C]``: what a noisy view says, one of them.
    fixed
        float32 ``[C, C]``: what a view says that is stuck at each class.
    groups
        Of nodes, in the whole fleet.
    """

    posterior: NDArray[np.float32]
    truth: NDArray[np.int64]
    noise: NDArray[np.float32]
    fixed: NDArray[np.float32]
    groups: int

    @classmethod
    def of(cls, scenario: Scenario, nodes: list[int]) -> Sights | None:
        """Return a scenario's, if it has events; `nodes` are the edge nodes of each cell.

        Raises
        ------
        ConfigError
            If the table is not one, or a cell has fewer nodes than an event views.
        """
        events = scenario.events
        if events is None:
            return None
        from escalade.policies.fusion.evaluation import posteriors
        from escalade.policies.fusion.faults import noisy, stuck

        if min(nodes) < events.views:
            raise ConfigError(
                f"{events.views} views need as many edge nodes in every cell, and one of {len(nodes)} cells has "
                f"{min(nodes)}: raise edge_nodes.count or engine.cell_endpoints",
                key="events.views",
            )
        if events.table is None:
            each = events.accuracy if isinstance(events.accuracy, list) else [events.accuracy] * events.views
            trace = parametric(tuple(each), events.classes, events.samples)
            posterior, truth = np.stack(trace.posteriors, axis=1), trace.labels
        else:
            logits, truth = _read(scenario.folder / events.table, events.views)
            posterior = posteriors(logits)
        classes = posterior.shape[2]
        blank = np.zeros((_NOISE_ROWS, classes))
        fixed = [softmax(stuck(np.zeros((1, classes)), answer), 1.0)[0] for answer in range(classes)]
        groups = sum(count // events.views for count in nodes)
        return cls(posterior, truth.astype(np.int64), softmax(noisy(blank, _SEED), 1.0), np.stack(fixed), groups)


def _read(file: Path, views: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    key = "events.table"
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("z_test", "y_test") if name in stored.files}
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}", key=key) from error
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile, zlib_error) as error:
        raise ConfigError(f"{file}: is no .npz file of arrays; write one with numpy.savez", key=key) from error
    if len(arrays) < 2:
        raise ConfigError(f"{file}: needs z_test and y_test, has {', '.join(arrays) or 'neither'}", key=key)
    logits, truth = arrays["z_test"], arrays["y_test"]
    if logits.ndim != 3 or logits.dtype.kind not in "fiu" or not np.isfinite(logits).all() or 0 in logits.shape:
        raise ConfigError(f"{file}: z_test must be finite logits [views, N, C], got {list(logits.shape)}", key=key)
    if logits.shape[0] != views:
        raise ConfigError(
            f"{file}: z_test has {logits.shape[0]} views, the scenario {views}: set events.views", key=key
        )
    if truth.shape != logits.shape[1:2] or truth.dtype.kind not in "iu":
        raise ConfigError(f"{file}: y_test must be {logits.shape[1]} whole numbers, got {list(truth.shape)}", key=key)
    if truth.min() < 0 or truth.max() >= logits.shape[2]:
        raise ConfigError(f"{file}: y_test must be in 0 to {logits.shape[2] - 1}", key=key)
    return logits.astype(np.float64), truth


def broken(world: World, view: Rows, group: Rows, t: Rows) -> NDArray[np.int8]:
    """Return how each view of an event at a time is: `WELL`, or what ails it."""
    assert world.scenario.events is not None
    found = np.full(len(t), WELL, np.int8)
    for number, fault in enumerate(world.scenario.events.faults):
        until = FAR if fault.to_s is None else round(fault.to_s * 1e9)
        hit = (view == fault.view) & (t >= round(fault.at_s * 1e9)) & (t < until)
        if fault.share < 1.0:
            key = world.keys[world.cells, Purpose.EVENT_FAULT]
            hit &= uniforms(key, (group << 16) + number) < fault.share
        found[hit] = _KINDS[fault.kind]
    return found


def samples(world: World, cell: Rows, event: Rows) -> Rows:
    """Return each event's row of the table."""
    assert world.sights is not None
    out = np.empty(len(event), np.int64)
    _below(world.keys[:, Purpose.EVENT_SAMPLE].copy(), cell, event, len(world.sights.truth), out)
    return out


def said(world: World, cell: Rows, event: Rows, view: Rows, group: Rows, t: Rows) -> NDArray[np.float32]:
    """Return what each view says, float32 ``[n, C]``; anything for one that is dead."""
    sights = world.sights
    assert sights is not None
    p: NDArray[np.float32] = sights.posterior[samples(world, cell, event), view]
    how = broken(world, view, group, t)
    fixed = np.flatnonzero(how == STUCK)
    p[fixed] = sights.fixed[(group[fixed] + view[fixed]) % p.shape[1]]
    wild = np.flatnonzero(how == NOISY)
    place = np.empty(len(wild), np.int64)
    _below(world.keys[:, Purpose.EVENT_NOISE].copy(), cell[wild], event[wild] * 16 + view[wild], _NOISE_ROWS, place)
    p[wild] = sights.noise[place]
    return p


@kernel
def _below(keys: Any, cell: Any, number: Any, n: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = below(keys[cell[i]], number[i], n)


class Views:
    """The events of one cell and where their views are below the server."""

    def __init__(self, world: World, cell: int) -> None:
        nodes = world.nodes(cell)
        self._cell, self._first, self._events = cell, nodes.start, 0
        self._source = event_source(world, cell)

    def arriving(self, world: World, t1: int, book: Book) -> Rows:
        """Return the views of events before `t1` as messages at their nodes, int64 ``[n, UP]``; the dead are lost."""
        assert world.scenario.events is not None
        views = world.scenario.events.views
        t, group = (np.repeat(column, views) for column in self._source.until(t1))
        n = len(t)
        event = self._events + np.arange(n, dtype=np.int64) // views
        self._events += n // views
        place = np.arange(n, dtype=np.int64) % views
        rows = np.zeros((n, UP), np.int64)
        rows[:, Up.RID], rows[:, Up.CELL], rows[:, Up.KIND] = VIEW_RID + event * 16 + place, self._cell, NO_KIND
        rows[:, Up.NODE] = group * views + place
        rows[:, Up.FLEET_NODE] = rows[:, Up.NODE] + self._first
        rows[:, Up.T], rows[:, Up.SENT_0], rows[:, Up.AT], rows[:, Up.END] = t, t, t, -1
        rows[:, Up.LIMIT_0], rows[:, Up.LIMIT_1] = FAR, FAR
        rows[:, Up.FLAGS], rows[:, Up.SIZE] = ANSWERED_0 | ANSWERED_1, world.scenario.events.bytes_up
        dead = broken(world, place, rows[:, Up.FLEET_NODE] - place, t) == DEAD
        if dead.any():
            book.out.seen.append(lost(rows[dead]))
            rows = rows[~dead]
        return rows

    def sent(self, rows: Rows, over: NDArray[np.intp], interval: int, book: Book) -> tuple[NDArray[np.intp], Rows]:
        """Divide what the nodes have inferred; return which rows are the cascade's, and the views on their way up."""
        mine = rows[over, Up.KIND] == NO_KIND
        up = rows[over[mine]]
        up[:, Up.SENT_1] = up[:, Up.END]
        size, stats = up[:, Up.SIZE], book.stats
        stats.count[[Count.BYTES_1, Count.BYTES_VIEWS]] += size.sum()
        at = np.minimum(up[:, Up.END] // interval, len(stats.series) - 1)
        np.add.at(stats.series[:, Series.BYTES_1], at, size)
        return over[~mine], up


def is_view(rows: Rows) -> NDArray[np.bool_]:
    """Return which messages are views."""
    views: NDArray[np.bool_] = rows[:, Up.KIND] == NO_KIND
    return views


def taken_out(rows: Rows, book: Book) -> Rows:
    """Return a hop's messages without the views; the aggregator is told of those that arrive."""
    mine = is_view(rows)
    book.out.seen.append(arrived(rows[mine & (rows[:, Up.STATUS] == Status.DONE)]))
    rest: Rows = rows[~mine]
    return rest


def lost(rows: Rows) -> Rows:
    """Return what the aggregator is told of views that never come."""
    seen = arrived(rows)
    seen[:, Seen.AT] = FAR
    return seen


def lost_on_the_way(rows: Rows) -> Rows:
    """Return the same of those of a hop's messages that are views and did not get over it."""
    return lost(rows[is_view(rows) & (rows[:, Up.STATUS] > Status.WAITING)])


def arrived(rows: Rows) -> Rows:
    """Return what the aggregator is told of views that arrive: int64 ``[n, SEEN]``."""
    seen = np.empty((len(rows), SEEN), np.int64)
    number = rows[:, Up.RID] - VIEW_RID
    seen[:, Seen.CELL], seen[:, Seen.EVENT], seen[:, Seen.VIEW] = rows[:, Up.CELL], number >> 4, number & 15
    seen[:, Seen.GROUP] = rows[:, Up.FLEET_NODE] - (number & 15)
    seen[:, Seen.T], seen[:, Seen.AT] = rows[:, Up.T], rows[:, Up.AT]
    return seen
