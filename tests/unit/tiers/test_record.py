"""A tier's record of its decisions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from escalade.policies import Action, AlwaysAccept, AlwaysEscalate, Batch, Decisions, Policy, Threshold
from escalade.tiers.config import RecordConfig
from escalade.tiers.errors import ConfigError
from escalade.tiers.record import Recorder
from escalade.tiers.record_chunk import DTYPES, Decided, chunks, read_chunk
from escalade.tiers.testing.fakes import FakeUpstream
from escalade.tiers.tier import Tier

MakeTier = Callable[..., Tier]
SURE, UNSURE = [9.0, 0.0], [0.2, 0.0]


def row(number: int, classes: int = 3) -> Decided:
    posterior = [1.0] + [0.0] * (classes - 1)
    return Decided(
        float(number), 0.5, 1, 0.25, 0.5, 100.0, 64, 5.0, 0, 0, posterior, 1, posterior, "edge_server", "", 2.0
    )


def recorder(folder: Path, **options: Any) -> Recorder:
    return Recorder(RecordConfig(folder=folder, **options), {"tier": "edge_node"}, clock=lambda: 1e9)


def read(folder: Path) -> dict[str, NDArray[Any]]:
    tables = [read_chunk(file)[0] for file in chunks(folder)]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


class Coin(Policy):
    """Escalates three in ten by chance."""

    def decide(self, batch: Batch) -> Decisions:
        up = batch.uniform < 0.3
        return Decisions(up.astype(np.int8), np.where(up, 0.3, 0.7))


def test_rows_come_back_as_they_were_given(tmp_path: Path) -> None:
    """Every column of every row, in order, with ids that grow."""
    kept = recorder(tmp_path)
    for number in range(10):
        kept.decided(row(number))
    kept.close()
    table = read(tmp_path)
    assert table["time_s"].tolist() == list(range(10))
    assert table["posterior"].shape == (10, 3)
    assert table["answered_by"].tolist() == ["edge_server"] * 10
    assert (np.diff(table["id"]) == 1).all()
    assert {name: table[name].dtype for name in ("score", "action", "propensity")} == {
        name: np.dtype(DTYPES[name]) for name in ("score", "action", "propensity")
    }


def test_the_folder_stays_within_its_size_and_loses_the_oldest(tmp_path: Path) -> None:
    """Chunks are removed before a new one would exceed `max_mb`; the newest rows are there."""
    kept = recorder(tmp_path, max_mb=8, flush_rows=100_000)
    rng, most = np.random.default_rng(0), 8 * 1024 * 1024
    for block in range(30):
        for number in range(700):
            noise = rng.random(100).astype(np.float32).tolist()
            kept.decided(row(block * 700 + number)._replace(posterior=noise, upper_posterior=noise))
        kept.flush()
        assert sum(file.stat().st_size for file in chunks(tmp_path)) <= most
    kept.close()
    times = read(tmp_path)["time_s"]
    assert times[-1] == 30 * 700 - 1
    assert times[0] > 0
    assert (np.diff(times) == 1).all()


def test_a_full_buffer_is_written_without_being_asked(tmp_path: Path) -> None:
    """The thread writes as soon as `flush_rows` rows wait, long before `flush_seconds`."""
    written = threading.Event()
    kept = recorder(tmp_path, flush_rows=5, flush_seconds=3600)
    write = kept._write

    def told(first: int, rows: list[Decided]) -> None:
        write(first, rows)
        written.set()

    kept._write = told  # type: ignore[method-assign]
    for number in range(5):
        kept.decided(row(number))
    assert written.wait(30)
    assert len(chunks(tmp_path)) == 1
    kept.close()


def test_ids_grow_over_a_restart_within_the_same_second(tmp_path: Path) -> None:
    """A chunk of the second run never takes the name of one of the first."""
    for _ in range(2):
        kept = recorder(tmp_path)
        kept.decided(row(0))
        kept.close()
    assert len(chunks(tmp_path)) == 2
    assert len(set(read(tmp_path)["id"].tolist())) == 2


def test_two_recorders_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second is refused with the reason; once the first is closed it may."""
    kept = recorder(tmp_path)
    with pytest.raises(ConfigError, match="another process records in"):
        recorder(tmp_path)
    kept.close()
    recorder(tmp_path).close()


def test_half_written_chunks_of_a_crash_are_cleared_away(tmp_path: Path) -> None:
    """A draft that was never renamed is no chunk, and goes at the next start."""
    draft = tmp_path / "0000000000000001.npz.part"
    draft.write_bytes(b"half")
    assert chunks(tmp_path) == []
    recorder(tmp_path).close()
    assert not draft.exists()


def test_what_cannot_be_written_is_counted_and_hurts_nobody(tmp_path: Path) -> None:
    """A disk that is full costs the rows, not the tier."""
    kept = recorder(tmp_path)

    def full(first: int, rows: list[Decided]) -> None:
        raise OSError(28, "No space left on device")

    kept._write = full  # type: ignore[method-assign]
    kept.decided(row(0))
    kept.flush()
    assert kept.lost == 1
    kept.close()


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path: Path) -> None:
    """The error names the key."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        recorder(tmp_path / "file" / "inside")
    assert caught.value.key == "record.folder"


def test_parquet_holds_the_same_as_npz(tmp_path: Path) -> None:
    """With pyarrow, chunks of either form give the same columns and meta."""
    pytest.importorskip("pyarrow", reason="pip install 'escalade[parquet]'")
    found = []
    for form in ("npz", "parquet"):
        kept = recorder(tmp_path / form, format=form)
        for number in range(5):
            kept.decided(row(number)._replace(upper_posterior=None if number % 2 else [0.0, 0.5, 0.5]))
        kept.close()
        (file,) = chunks(tmp_path / form)
        found.append(read_chunk(file))
    (npz, about), (parquet, about_too) = found
    assert about == about_too
    assert npz.keys() == parquet.keys()
    for name in npz:
        assert np.array_equal(npz[name], parquet[name], equal_nan=npz[name].dtype.kind == "f"), name


def test_parquet_without_pyarrow_is_refused_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not when the first chunk is due; and the folder is let go."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'escalade\[parquet\]'"):
        recorder(tmp_path, format="parquet")
    recorder(tmp_path).close()


@pytest.mark.asyncio
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "batched"])
async def test_an_accepted_row_is_recorded_with_no_upper_answer(
    make_tier: MakeTier, tmp_path: Path, inline: bool
) -> None:
    """Score, posterior and label are the tier's own; nobody above was asked."""
    kept = recorder(tmp_path)
    answer = await make_tier(FakeUpstream(), inline=inline, recorder=kept).infer(np.array([SURE], np.float32))
    kept.close()
    table = read(tmp_path)
    assert table["action"].tolist() == [Action.ACCEPT]
    assert table["score"][0] == answer.score[0]
    assert (table["label"][0], table["upper_label"][0]) == (0, -1)
    assert table["answered_by"].tolist() == ["edge_node"]
    assert table["propensity"].tolist() == [1.0]


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 3])
async def test_an_escalated_row_is_recorded_with_what_came_from_above(
    make_tier: MakeTier, tmp_path: Path, count: int
) -> None:
    """Its own label and posterior, and beside them those of the tier above."""
    kept = recorder(tmp_path)
    tier = make_tier(FakeUpstream(posterior=(0.25, 0.75)), AlwaysEscalate(), recorder=kept)
    await tier.infer(np.array([SURE] * count, np.float32))
    kept.close()
    table = read(tmp_path)
    assert table["label"].tolist() == [0] * count
    assert table["upper_label"].tolist() == [1] * count
    assert table["upper_posterior"].tolist() == [[0.25, 0.75]] * count
    assert table["posterior"][0, 0] > 0.99
    assert table["answered_by"].tolist() == ["edge_server"] * count


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 2])
async def test_an_escalation_without_an_answer_is_recorded_as_degraded(
    make_tier: MakeTier, tmp_path: Path, count: int
) -> None:
    """The decision stands as ESCALATE, the upper label is unknown, and the reason is there."""
    upstream = FakeUpstream()
    upstream.failure = "unavailable"
    kept = recorder(tmp_path)
    await make_tier(upstream, Threshold(0.9), recorder=kept).infer(np.array([UNSURE] * count, np.float32))
    kept.close()
    table = read(tmp_path)
    assert table["action"].tolist() == [Action.ESCALATE] * count
    assert table["upper_label"].tolist() == [-1] * count
    assert table["reason"].tolist() == ["unavailable"] * count
    assert np.isnan(table["upper_posterior"]).all()


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 40])
async def test_the_propensity_of_chance_is_recorded(make_tier: MakeTier, tmp_path: Path, count: int) -> None:
    """Each row holds the probability of what was done to it, alone or among others."""
    kept = recorder(tmp_path)
    tier = make_tier(FakeUpstream(), Coin(), recorder=kept, limits={"max_rows": 64})
    for _ in range(40 // count):
        await tier.infer(np.array([SURE] * count, np.float32))
    kept.close()
    table = read(tmp_path)
    up = table["action"] == Action.ESCALATE
    assert 0 < up.sum() < 40
    assert table["propensity"].tolist() == np.where(up, 0.3, 0.7).tolist()
    assert ((table["uniform"] < 0.3) == up).all()


class Fading(Coin):
    """Coin whose chance halves with every row that goes up: it has a memory."""

    sequential = True

    def __init__(self) -> None:
        self.chance = 0.8

    def decide(self, batch: Batch) -> Decisions:
        up = batch.uniform < self.chance
        return Decisions(up.astype(np.int8), np.where(up, self.chance, 1 - self.chance))

    def commit(self, batch: Batch, action: NDArray[np.int8]) -> None:
        self.chance /= 2 ** int((action == Action.ESCALATE).sum())


@pytest.mark.asyncio
async def test_the_propensity_of_a_policy_with_a_memory_is_that_of_its_moment(
    make_tier: MakeTier, tmp_path: Path
) -> None:
    """It is taken before the policy is told what was done, not when the chunk is written."""
    kept = recorder(tmp_path)
    tier = make_tier(FakeUpstream(), Fading(), recorder=kept, uniform=lambda: 0.0)
    for _ in range(3):
        await tier.infer(np.array([SURE], np.float32))
    kept.close()
    assert read(tmp_path)["propensity"].tolist() == [0.8, 0.4, 0.2]


@pytest.mark.asyncio
async def test_a_policy_that_fails_is_recorded_as_certain(make_tier: MakeTier, tmp_path: Path) -> None:
    """The tier escalates in its place, whatever chance said."""

    class Broken(Policy):
        def decide(self, batch: Batch) -> Decisions:
            raise ZeroDivisionError

    kept = recorder(tmp_path)
    await make_tier(FakeUpstream(), Broken(), recorder=kept).infer(np.array([SURE], np.float32))
    kept.close()
    table = read(tmp_path)
    assert (table["action"].tolist(), table["propensity"].tolist()) == ([Action.ESCALATE], [1.0])


@pytest.mark.asyncio
async def test_rows_of_one_request_are_told_apart(make_tier: MakeTier, tmp_path: Path) -> None:
    """Of a request with a sure and an unsure row, one is answered here and one above."""
    kept = recorder(tmp_path)
    tier = make_tier(FakeUpstream(), Threshold(0.9), recorder=kept)
    await tier.infer(np.array([SURE, UNSURE], np.float32))
    kept.close()
    table = read(tmp_path)
    assert table["action"].tolist() == [Action.ACCEPT, Action.ESCALATE]
    assert table["upper_label"].tolist() == [-1, 1]
    assert table["answered_by"].tolist() == ["edge_node", "edge_server"]


@pytest.mark.asyncio
async def test_a_tier_without_an_upstream_records_what_it_decided(make_tier: MakeTier, tmp_path: Path) -> None:
    """AlwaysAccept at the top: rows without an upper answer."""
    kept = recorder(tmp_path)
    await make_tier(None, AlwaysAccept(), recorder=kept).infer(np.array([UNSURE] * 2, np.float32))
    kept.close()
    assert read(tmp_path)["action"].tolist() == [0, 0]
