"""A tier's recording, read back and made into a trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from escalade.policies import Action, Threshold, TraceError
from escalade.simulations.off_policy import estimate
from escalade.simulations.recording_file import merge, read_recording, summary, trust_upper, with_labels
from escalade.simulations.trace_file import TraceFile
from escalade.tiers.config import RecordConfig
from escalade.tiers.record import Recorder
from escalade.tiers.record_chunk import Decided, chunks

ROWS, CLASSES = 400, 3


def record(folder: Path, rows: int = ROWS, chance: float = 0.5, sha256: str = "a" * 64, seed: int = 0) -> None:
    """Record traffic of which chance sends a share up; the upper tier answers class 1 with certainty."""
    rng = np.random.default_rng(seed)
    kept = Recorder(
        RecordConfig(folder=folder, flush_seconds=3600), {"tier": "endpoint", "score": "max_prob", "sha256": sha256}
    )
    for number in range(rows):
        posterior = rng.dirichlet(np.ones(CLASSES)).astype(np.float32).tolist()
        uniform = float(rng.random())
        up = uniform < chance
        kept.decided(
            Decided(
                1e9 + number, max(posterior), int(up), chance if up else 1 - chance, uniform, 100.0, 64, 5.0, 0,
                posterior.index(max(posterior)), posterior, 1 if up else -1, [0.0, 1.0, 0.0] if up else None,
                "edge_server" if up else "endpoint", "", 2.0,
            )
        )  # fmt: skip
        if number % 150 == 149:
            kept.flush()
    kept.close()


def test_chunks_are_joined_in_their_order(tmp_path: Path) -> None:
    """Rows come back by time, with everything that off-policy evaluation takes."""
    record(tmp_path)
    assert len(chunks(tmp_path)) == 3
    recorded = read_recording(tmp_path)
    assert recorded.columns["time_s"].tolist() == [1e9 + n for n in range(ROWS)]
    logged = recorded.logged()
    assert logged.batch.posterior is not None
    assert (logged.batch.posterior.max(axis=1) == logged.batch.score).all()
    assert ((logged.upper == 1) == (logged.action == Action.ESCALATE)).all()
    assert estimate(logged, Threshold(0.6), reference="upper", resamples=50).rows == ROWS


def test_chunks_that_know_no_load_are_read_beside_those_that_do(tmp_path: Path) -> None:
    """A tier was upgraded while it recorded: what the older version did not write counts as 0."""
    record(tmp_path)
    old = chunks(tmp_path)[0]
    with np.load(old) as archive:
        columns = {name: archive[name] for name in archive.files if name != "upstream_load"}
    np.savez_compressed(old, **columns)
    recorded = read_recording(tmp_path)
    assert len(recorded) == ROWS
    assert (recorded.logged().batch.upstream_load == 0.0).all()
    merge(trust_upper(recorded), tmp_path / "t.npz")
    assert (read_recording(tmp_path / "t.npz").logged().batch.upstream_load == 0.0).all()


def test_a_merged_file_is_the_recording_and_a_trace(tmp_path: Path) -> None:
    """The rows of which truth and both answers are known, the earlier to fit, the later to judge."""
    record(tmp_path / "r")
    recorded = trust_upper(read_recording(tmp_path / "r"))
    counts = merge(recorded, tmp_path / "t.npz", test_share=0.25)
    up = int((recorded.columns["action"] == 1).sum())
    assert counts == {"rows": ROWS, "cal": round(up * 0.75), "test": up - round(up * 0.75)}
    file = TraceFile.open(tmp_path / "t.npz")
    test = file.split("test")
    assert test.names == ("endpoint", "edge_server")
    assert test.correct(1).all()
    times = file.times_s("test", len(test))
    assert times is not None
    assert times.min() > np.max(file.arrays["time_s_cal"])
    again = read_recording(tmp_path / "t.npz")
    assert (again.columns["score"] == recorded.columns["score"]).all()


def test_without_labels_there_is_no_trace_and_it_is_said(tmp_path: Path) -> None:
    """The recording is kept; a policy command then asks for labels."""
    record(tmp_path / "r")
    counts = merge(read_recording(tmp_path / "r"), tmp_path / "t.npz")
    assert (counts["cal"], counts["test"]) == (0, 0)
    with pytest.raises(TraceError, match="t1_cal: is missing"):
        TraceFile.open(tmp_path / "t.npz").split("cal")


def test_labels_are_taken_in_order_or_by_id(tmp_path: Path) -> None:
    """A label a row, or ids with labels for some."""
    record(tmp_path / "r")
    recorded = read_recording(tmp_path / "r")
    labels = np.random.default_rng(1).integers(0, CLASSES, ROWS)
    np.save(tmp_path / "all.npy", labels)
    assert (with_labels(recorded, tmp_path / "all.npy").columns["truth"] == labels).all()
    ids = recorded.columns["id"]
    (tmp_path / "some.csv").write_text(f"{ids[7]},2\n{ids[3]},1\n")
    some = with_labels(recorded, tmp_path / "some.csv").columns["truth"]
    assert (some[7], some[3], (some == -1).sum()) == (2, 1, ROWS - 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1\n2\n", "has shape [2]; the recording needs [400]"),
        ("5,1\n", "row 0: id 5 is not in the recording"),
        ("a\nb\n", "must be whole numbers"),
        ("\n".join(["0"] * 17 + ["3"] + ["0"] * 382), "row 17: 3 is no class of 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """File, row and what is wrong."""
    record(tmp_path / "r")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(TraceError) as caught:
        with_labels(read_recording(tmp_path / "r"), tmp_path / "labels.csv")
    assert says in str(caught.value)


def test_a_chunk_that_is_cut_short_is_left_out_and_named(tmp_path: Path) -> None:
    """Its neighbours are read."""
    record(tmp_path)
    middle = chunks(tmp_path)[1]
    middle.write_bytes(middle.read_bytes()[:100])
    recorded = read_recording(tmp_path)
    assert recorded.broken == (middle.name,)
    assert len(recorded) == 250


def test_rows_of_two_models_make_no_trace(tmp_path: Path) -> None:
    """A model that was replaced while the tier recorded is noticed."""
    record(tmp_path, rows=20)
    record(tmp_path, rows=20, sha256="b" * 64)
    with pytest.raises(TraceError, match="2 models"):
        merge(read_recording(tmp_path), tmp_path / "t.npz")


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    """An empty folder, no folder, another npz file."""
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    for place, says in [
        (tmp_path, "holds no chunks"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "other.npz", "holds no recording"),
    ]:
        with pytest.raises(TraceError, match=says):
            read_recording(place)


def test_the_summary_says_what_was_never_sent_up(tmp_path: Path) -> None:
    """A deterministic recording is told from one that chance explored."""
    record(tmp_path / "chance")
    facts = summary(read_recording(tmp_path / "chance"))
    assert (facts["never_escalated"], facts["least_propensity"], facts["rows"]) == (0.0, 0.5, ROWS)
    record(tmp_path / "fixed", chance=0.0)
    assert summary(read_recording(tmp_path / "fixed"))["never_escalated"] == 1.0
