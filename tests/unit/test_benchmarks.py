"""The benchmarks' own logic, and that they run from end to end; no test says how fast anything is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # the benchmarks are not installed

from benchmarks import peers
from benchmarks.load import Sample
from benchmarks.peers import Peer
from benchmarks.processes import Server, ServerError
from benchmarks.repeats import Settings, interleave, middle, ratio
from benchmarks.report import Results, Row

ROOT = Path(__file__).parents[2]
ROW_KEYS = {"bench", "what", "value", "unit", "target", "at_most", "passed", "detail"}


def sample(requests_per_s: float, p50_ms: float = 1.0) -> Sample:
    return Sample(requests_per_s, p50_ms, p99_ms=2.0, requests=100, server_cpu_us=50.0)


@pytest.mark.parametrize(
    ("limit", "at_most", "passed", "target", "verdict"),
    [
        (1.6, True, True, "<= 1.6 x", "pass"),
        (1.5, True, True, "<= 1.5 x", "pass"),
        (1.4, True, False, "<= 1.4 x", "MISS"),
        (1.4, False, True, ">= 1.4 x", "pass"),
        (1.5, False, True, ">= 1.5 x", "pass"),
        (1.6, False, False, ">= 1.6 x", "MISS"),
        (None, True, None, "", ""),
    ],
)
def test_a_row_passes_on_the_right_side_of_its_target(
    limit: float | None, at_most: bool, passed: bool | None, target: str, verdict: str
) -> None:
    """The target itself still passes; a row without one has no verdict."""
    row = Row("B2", "small CNN", 1.5, "x", limit, at_most=at_most)
    assert row.passed is passed
    assert row.cells == ("B2", "small CNN", "1.50 x", target, verdict, "")


def test_a_verdict_is_of_the_measured_value_not_of_the_printed_one() -> None:
    """0.8996 prints as 0.90 and misses 0.9 all the same."""
    row = Row("B2", "small CNN", 0.8996, "x", 0.9, at_most=False)
    assert row.cells[2:5] == ("0.90 x", ">= 0.9 x", "MISS")


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A machine that halves its speed between two rounds changes nothing."""
    samples = {
        "ours": [sample(100), sample(50), sample(90)],
        "bare": [sample(200), sample(100), sample(100)],
    }
    assert ratio(samples, "ours", "bare", "requests_per_s") == 0.5
    assert middle(samples, "ours", "requests_per_s") == 90
    assert middle(samples, "bare", "requests_per_s") == 100


def test_a_ratio_of_cases_with_different_numbers_of_rounds_is_refused() -> None:
    """They were not measured side by side."""
    with pytest.raises(ValueError, match="shorter"):
        ratio({"ours": [sample(1)], "bare": [sample(1), sample(1)]}, "bare", "ours", "p50_ms")


def test_rounds_alternate_their_order_and_the_warm_up_is_dropped() -> None:
    """Whatever a case does to the one after it, it does to either side."""
    calls: list[str] = []

    def case(name: str, rate: float) -> Callable[[], Awaitable[Sample]]:
        async def measure() -> Sample:
            calls.append(name)
            return sample(rate + len(calls))

        return measure

    samples = asyncio.run(interleave({"a": case("a", 0), "b": case("b", 100)}, repeats=3))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [taken.requests_per_s for taken in samples["a"]] == [3, 6, 7]
    assert [taken.requests_per_s for taken in samples["b"]] == [104, 105, 108]


def test_results_are_written_as_json_and_as_a_table(tmp_path: Path) -> None:
    """The folder is made; JSON has every key, Markdown every row and note."""
    results = Results({"repeats": 2})
    results.add([Row("B1", "added", 10.98765, "us", 15.0, detail="17 us")], {"B1": {"ours_us": [17.0]}})
    results.add([Row("B2", "4 streams", 1.6, "x", at_most=False)], {"B2": {"ours": [sample(9).as_dict()]}})
    results.notes["Triton"] = "skipped: no environment"
    results.write(tmp_path / "new", "serving", "Serving")

    written = json.loads((tmp_path / "new" / "serving.json").read_text())
    assert set(written) == {"environment", "settings", "rows", "notes", "samples"}
    assert {"cpu", "cores", "python", "grpcio", "onnxruntime"} <= set(written["environment"])
    assert written["settings"] == {"repeats": 2}
    assert [set(row) for row in written["rows"]] == [ROW_KEYS, ROW_KEYS]
    assert [(row["value"], row["target"], row["passed"]) for row in written["rows"]] == [
        (10.9877, 15.0, True),
        (1.6, None, None),
    ]
    assert written["samples"]["B2"]["ours"][0]["requests_per_s"] == 9

    table = (tmp_path / "new" / "serving.md").read_text()
    assert table.startswith("# Serving\n")
    assert "| B1 | added | 10.99 us | <= 15 us | pass | 17 us |" in table
    assert table.endswith("|\n\n- Triton: skipped: no environment\n")


def test_the_table_on_the_terminal_is_aligned_and_ends_with_the_notes() -> None:
    """Columns are as wide as their widest cell; no line ends in spaces."""
    results = Results({}, [Row("B1", "added", 11.0, "us", 15.0), Row("B2", "small CNN", 0.95, "x", detail="2269/s")])
    results.notes["Triton"] = "skipped"
    header, first, second, note = results.text().splitlines()
    assert header.index("measured") == first.index("11.00 us") == second.index("0.95 x")
    assert header.index("detail") == second.index("2269/s")
    assert first.endswith("pass")
    assert note == "Triton: skipped"


def test_a_peer_without_its_environment_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends well, and says how to get the environment."""
    monkeypatch.setattr(peers, "ENVIRONMENTS", ROOT / "nothing" / "here")
    results = asyncio.run(peers.run([Peer("Triton", "triton", "on_triton", "nvidia-pytriton", 1.0)], Settings.quick()))
    assert results.rows == []
    assert results.notes == {"Triton": "skipped: no environment in .venvs/triton; `make peers` builds it"}


def test_a_peer_is_compared_with_ours_and_both_with_the_bare_servicer() -> None:
    """The target holds at each concurrency."""
    peer = Peer("Other", "other", "on_other", "other", 2.0)
    cases = [f"unary c{concurrency}" for concurrency in peers.CONCURRENCIES]
    samples = {
        f"{name} {case}": [sample(rate)]
        for case in cases
        for name, rate in (("ours", 90), ("theirs", 60), ("bare", 100))
    }
    rows = peers.rows(peer, samples)
    assert [row.what for row in rows] == [f"small CNN, {case}, ours / Other" for case in cases]
    assert [(row.value, row.limit, row.passed) for row in rows] == [(1.5, 2.0, False)] * 3
    assert rows[0].detail.startswith("of the bare servicer: Other 0.60, ours 0.90; ")


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (f"Traceback\nImportError: no {ROOT}/tiers\nINFO bye\n\n", "ImportError: no tiers"),
        ("one\ntwo\n", "two"),
        ("", "ServerError"),
    ],
)
def test_the_reason_is_the_line_that_names_an_error_or_else_the_last(printed: str, reason: str) -> None:
    """Without the folder that the project happens to lie in."""
    assert peers.reason(ServerError(printed)) == reason


def test_a_server_that_ends_before_it_serves_says_what_it_printed() -> None:
    """At once, not when the time to start is over."""
    server = Server([sys.executable, "-c", "raise SystemExit('no such model')"], start_seconds=60)
    with pytest.raises(ServerError, match="no such model"):
        server.__enter__()


def test_processor_time_is_that_of_a_server_and_of_the_processes_below_it() -> None:
    """What a child used counts; a peer may be several processes."""
    child = "import signal, time\nwhile time.process_time() < 0.2: pass\nprint('serving 127.0.0.1:1', flush=True)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r} + '\\nsignal.pause()'])"
    with Server([sys.executable, "-c", code]) as server:
        assert server.address == "127.0.0.1:1"
        if sys.platform == "linux":
            assert server.cpu_seconds() >= 0.2


def test_the_benchmarks_run_from_end_to_end(tmp_path: Path) -> None:
    """`--quick` measures, prints the table and writes rows with the documented keys."""
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--only", "B1", "B2", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "serving.json").read_text())
    assert [row["bench"] for row in written["rows"]] == ["B1"] + ["B2"] * 5
    assert all(set(row) == ROW_KEYS for row in written["rows"])
    assert all(row["value"] > 0 for row in written["rows"] if row["bench"] != "B1")  # B1 is a difference of two times
    assert set(written["samples"]) == {"B1", "B2"}
    assert written["settings"] == {"repeats": 1, "seconds": 0.1, "calls": 50}
    assert all(row["what"] in done.stdout for row in written["rows"])


def test_the_readme_names_every_benchmark_and_every_key() -> None:
    """What one can run and what one can read are explained."""
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"| {name} |" in text for name in ("B1", "B2", "B3", "B4", "peers"))
    assert all(f"`{key}`" in text for key in ROW_KEYS | {"environment", "settings", "rows", "notes", "samples"})
    assert all(peer.name in text for peer in peers.PEERS)
