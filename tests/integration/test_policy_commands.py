"""`escalade policy` and `escalade record` as people call them: real files, exit codes, one line for a mistake."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from escalade.cli.main import main
from escalade.policies import Threshold, load_policy, softmax
from escalade.policies.state_file import load_state
from escalade.simulations.evaluate import evaluate
from escalade.simulations.recording_file import read_recording
from escalade.simulations.trace_file import load_trace
from escalade.tiers import Endpoint

COSTS = ".01,.10,1.00"
DATA = Path(os.environ.get("ESCALADE_DATA", Path(__file__).parents[3] / "shared" / "data"))

Captured = pytest.CaptureFixture[str]


def make_trace(file: Path, rows: int = 3000, tiers: int = 3, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split in ("cal", "test"):
        labels = rng.integers(0, 5, rows)
        arrays[f"y_{split}"] = labels.astype(np.uint8)
        for tier in range(1, tiers + 1):
            logits = (1 + 1.2 * tier) * np.eye(5)[labels] + rng.normal(size=(rows, 5))
            arrays[f"t{tier}_{split}"] = logits.astype(np.float16)
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trace(tmp_path_factory.mktemp("trace") / "trace.npz")


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "threshold.yaml", text: str = "name: Threshold\nthreshold: 0.8\n") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def run(*arguments: object) -> int:
    try:
        return main([str(one) for one in arguments])
    except SystemExit as error:  # argparse
        return int(error.code or 0)


def complaint(captured: Captured, code: int, *arguments: object) -> str:
    """Return the one line that a refused command says."""
    assert run(*arguments) == code
    said = captured.readouterr()
    (line,) = said.err.splitlines()
    assert "Traceback" not in said.err
    return line


RISK = "name: RiskControlled\nalpha: 0.05\n"


def test_evaluate_prints_and_writes_what_the_library_says(
    trace: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    """evaluation.json holds accuracy, accuracy_top, share and relative_cost of the test arrays; the page opens."""
    assert run("policy", "evaluate", "--trace", trace, "--policy", policy(), "--costs", COSTS, "--out", tmp_path) == 0
    data = json.loads((tmp_path / "evaluation.json").read_text())
    found = evaluate(load_trace(trace, "test", costs=(0.01, 0.1, 1.0)), Threshold(0.8))
    assert (data["accuracy"], data["share"], data["relative_cost"]) == (
        found.accuracy,
        found.share,
        found.relative_cost,
    )
    assert data["accuracy_top"] == found.facts["accuracy_top"]
    assert (tmp_path / "evaluation.html").read_text().startswith("<!doctype html>")
    said = capsys.readouterr().out
    assert f"{100 * found.accuracy:.2f} %" in said
    assert "oracle" in said


def test_bytes_latency_and_energy_are_reported_where_given(
    trace: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    """With intervals, in the table and in the JSON."""
    given = ["--bytes", "784", "--latency-ms", "1,5,40", "--energy-mj", "2,0,0"]
    assert run("policy", "evaluate", "--trace", trace, "--policy", policy(), *given, "--out", tmp_path) == 0
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert 0 < data["bytes_up"] < 2 * 784
    low, high = data["intervals"]["latency_ms"]
    assert 1 < low < data["latency_ms"] < high < 46
    assert data["energy_mj"] == pytest.approx(2)
    assert "bytes up" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_files(trace: Path, policy: Callable[..., Path], tmp_path: Path) -> None:
    """Byte for byte, the page too."""
    for name in ("a", "b"):
        run("policy", "evaluate", "--trace", trace, "--policy", policy(), "--seed", 3, "--out", tmp_path / name)
    for file in ("evaluation.json", "evaluation.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_fit_writes_what_a_tier_can_name(
    trace: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    """policy.yaml and state.npz load as they are, and evaluate takes them."""
    source = policy("risk.yaml", RISK)
    assert run("policy", "fit", "--trace", trace, "--policy", source, "--costs", COSTS, "--out", tmp_path / "f") == 0
    spec = yaml.safe_load((tmp_path / "f" / "policy.yaml").read_text())
    assert spec["state"] == "state.npz"
    assert load_state(tmp_path / "f" / "state.npz", "RiskControlled")
    assert load_policy(spec, folder=tmp_path / "f").at_tier(1)
    assert run("policy", "evaluate", "--trace", trace, "--policy", tmp_path / "f" / "policy.yaml") == 0
    assert "f (RiskControlled)" in capsys.readouterr().out


def test_the_policy_inside_a_combinator_is_fitted(trace: Path, policy: Callable[..., Path], tmp_path: Path) -> None:
    """The state stands where the inner policy stands."""
    text = "name: Hysteresis\npolicy: {name: RiskControlled, alpha: 0.05}\nmargin: 0.05\n"
    source = policy("h.yaml", text)
    assert run("policy", "fit", "--trace", trace, "--policy", source, "--out", tmp_path / "f") == 0
    spec = yaml.safe_load((tmp_path / "f" / "policy.yaml").read_text())
    assert spec["policy"]["state"] == "state.npz"
    assert run("policy", "evaluate", "--trace", trace, "--policy", tmp_path / "f" / "policy.yaml") == 0


def test_certify_writes_a_certificate_that_names_the_models(trace: Path, tmp_path: Path, capsys: Captured) -> None:
    """certificate.json: alpha, delta, n, thresholds, digests; and the policy it is of."""
    (tmp_path / "m.onnx").write_bytes(b"model")
    out = tmp_path / "c"
    arguments = ["--trace", trace, "--alpha", "0.05", "--delta", "0.1", "--costs", COSTS, "--out", out]
    assert run("policy", "certify", *arguments, "--model", tmp_path / "m.onnx") == 0
    certificate = json.loads((out / "certificate.json").read_text())
    assert (certificate["alpha"], certificate["delta"], certificate["n"]) == (0.05, 0.1, 3000)
    assert certificate["bound"] <= 0.05
    assert len(certificate["models"][0]) == 64
    fitted = load_policy(yaml.safe_load((out / "policy.yaml").read_text()), folder=out)
    with pytest.raises(ValueError, match="another model"):
        fitted.check_model("0" * 64)
    assert "5 % of accuracy" in capsys.readouterr().out


def test_certify_says_how_many_labels_would_do(tmp_path: Path, capsys: Captured) -> None:
    """Exit 1, one line, nothing written."""
    small = make_trace(tmp_path / "small.npz", rows=100)
    out = tmp_path / "c"
    line = complaint(
        capsys, 1, "policy", "certify", "--trace", small, "--alpha", "0.01", "--delta", "0.1", "--out", out
    )
    assert "cannot be certified with 100 rows; about" in line
    assert "labels needed" in line
    assert not (out / "certificate.json").exists()


def test_compare_pairs_the_policies(trace: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured) -> None:
    """The second minus the first, with intervals, in text, JSON and page."""
    first, second = policy("a.yaml"), policy("b.yaml", "name: Threshold\nthreshold: 0.95\n")
    assert run("policy", "compare", "--trace", trace, "--policy", first, second, "--out", tmp_path) == 0
    data = json.loads((tmp_path / "comparison.json").read_text())
    (found,) = data["differences"]
    a, b = (one["accuracy"] for one in data["policies"])
    assert found["accuracy"]["difference"] == pytest.approx(b - a)
    assert "b (Threshold) minus a (Threshold)" in capsys.readouterr().out
    assert "Differences" in (tmp_path / "comparison.html").read_text()


def test_a_list_has_one_policy_for_each_tier(trace: Path, policy: Callable[..., Path], capsys: Captured) -> None:
    """The wrong number is refused."""
    both = policy("both.yaml", "- {name: Threshold, threshold: 0.8}\n- {name: AlwaysAccept}\n")
    assert run("policy", "evaluate", "--trace", trace, "--policy", both) == 0
    capsys.readouterr()
    one = policy("one.yaml", "- {name: Threshold, threshold: 0.8}\n")
    assert "1 policies for 3 tiers" in complaint(capsys, 2, "policy", "evaluate", "--trace", trace, "--policy", one)


def test_explain_shows_the_numbers_at_every_tier_asked(
    trace: Path, policy: Callable[..., Path], capsys: Captured
) -> None:
    """Score, threshold, action and propensity, up to the tier that answers."""
    assert run("policy", "explain", "--trace", trace, "--row", 3, "--policy", policy(), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["action"] for one in found][:-1] == ["escalate"] * (len(found) - 1)
    assert found[-1]["action"] == "accept"
    assert found[0]["score"] == pytest.approx(max(found[0]["posterior"]))
    assert found[0]["propensity"] == 1.0
    assert run("policy", "explain", "--trace", trace, "--row", 3, "--policy", policy(), "--level", 0) == 0
    assert "score_name      max_prob" in capsys.readouterr().out
    line = complaint(capsys, 2, "policy", "explain", "--trace", trace, "--row", 99_999, "--policy", policy())
    assert "has rows 0 to 2999" in line


def test_explain_runs_a_tiers_own_model(tmp_path: Path, models: Path, capsys: Captured) -> None:
    """For one input, what the tier would compute and decide."""
    (tmp_path / "m.onnx").write_bytes((models / "unsure.onnx").read_bytes())
    config = "tier: endpoint\nmodel: {file: m.onnx, providers: [cpu]}\n"
    config += "upstream: {address: '127.0.0.1:9'}\npolicy: {name: Threshold, threshold: 0.9}\n"
    (tmp_path / "tier.yaml").write_text(config)
    np.save(tmp_path / "x.npy", np.array([[9, 0, 0, 0], [0.1, 0, 0, 0]], np.float32))
    shown = []
    for row in (0, 1):
        code = run(
            "policy",
            "explain",
            "--input",
            tmp_path / "x.npy",
            "--config",
            tmp_path / "tier.yaml",
            "--row",
            row,
            "--json",
        )
        assert code == 0
        shown += json.loads(capsys.readouterr().out)
    assert [one["action"] for one in shown] == ["accept", "escalate"]
    assert sum(shown[0]["posterior"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a.update(y_cal=a["y_cal"] * 0), "trace.npz: y_cal: holds only class 0"),
        (lambda a: a["t2_cal"].__setitem__((5, 0), np.nan), "trace.npz: t2_cal, row 5: holds a value"),
        (lambda a: a.pop("t2_cal"), "trace.npz: t2_cal: is missing"),
        (lambda a: a.update(t1_cal=a["t1_cal"][:-1]), "trace.npz: t1_cal: has 199 rows, but y_cal has 200"),
        (lambda a: a["y_cal"].__setitem__(9, 77), "trace.npz: y_cal, row 9: 77 is no class of 5"),
    ],
)
def test_a_bad_trace_is_named_with_file_array_and_row(
    tmp_path: Path, policy: Callable[..., Path], capsys: Captured, spoil: Any, says: str
) -> None:
    """Exit 2 and one line."""
    file = make_trace(tmp_path / "trace.npz", rows=200)
    with np.load(file) as archive:
        content = dict(archive)
    spoil(content)
    np.savez(file, **content)
    line = complaint(
        capsys, 2, "policy", "fit", "--trace", file, "--policy", policy("r.yaml", RISK), "--out", tmp_path / "f"
    )
    assert says in line


def test_other_mistakes_are_one_line(
    trace: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    """Each says what is wrong and what to do; exit 2."""
    plain, risk, out = policy(), policy("r.yaml", RISK), ["--out", tmp_path / "o"]
    bad = policy("bad.yaml", "name: Treshold\n")
    for arguments, says in [
        (["fit", "--trace", trace, "--policy", plain, *out], "needs no fit"),
        (["evaluate", "--trace", trace, "--policy", risk], "escalade policy fit"),
        (["evaluate", "--trace", trace, "--policy", bad], "did you mean 'Threshold'?"),
        (["evaluate", "--trace", trace, "--policy", plain, "--costs", "1,2"], "there are 2 for 3 tiers"),
        (["evaluate", "--trace", trace, "--policy", tmp_path / "none.yaml"], "cannot be read"),
        (["evaluate", "--policy", plain], "--trace is needed, or --recording"),
        (["evaluate", "--trace", trace, "--policy", plain, plain], "use `escalade policy compare`"),
        (["evaluate", "--trace", trace, "--policy", plain, "--tiers", "1"], "nothing to escalate to"),
        (["evaluate", "--recording", tmp_path / "none", "--policy", plain], "cannot be read"),
        (["certify", "--trace", trace, *out], "--alpha is needed"),
        (["certify", "--trace", trace, "--policy", plain, *out], "gives no guarantee"),
        (["explain", "--policy", plain], "name a row of a --trace"),
    ]:
        assert says in complaint(capsys, 2, "policy", *arguments), arguments


def test_numbers_that_are_none_are_refused_by_the_grammar(
    trace: Path, policy: Callable[..., Path], capsys: Captured
) -> None:
    """Prices below 0, shares above 1."""
    for extra in (["--costs", "1,-1,1"], ["--audit", "1.5"], ["--rate", "0"]):
        assert run("policy", "evaluate", "--trace", trace, "--policy", policy(), *extra) == 2
        assert "usage:" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_gets_no_traceback(trace: Path, policy: Callable[..., Path]) -> None:
    """`| head -1` ends the command without a word."""
    command = (
        f"'{sys.executable}' -m escalade.cli.main policy explain --trace '{trace}' --policy '{policy()}' | head -1"
    )
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stdout.count("\n"), ran.stderr) == (1, "")


def serve_some(folder: Path, model: Path, record: Path, policy: dict[str, Any], rows: int = 600) -> None:
    """Let a real endpoint with a real server above answer some inputs, and record."""

    async def go() -> None:
        from escalade.tiers import EdgeServer

        base = {"listen": {"address": "127.0.0.1:0"}, "log": {"level": "error"}}
        server = EdgeServer.from_config({"tier": "edge_server", "model": {"file": str(model), "name": "m"}, **base})
        async with server:
            address = await server.listen()
            endpoint = Endpoint.from_config(
                {
                    "tier": "endpoint",
                    "model": {"file": str(model), "name": "m"},
                    "policy": policy,
                    "upstream": {"address": address},
                    "record": {"folder": str(record)},
                    **base,
                }
            )
            async with endpoint:
                rng = np.random.default_rng(0)
                for _ in range(rows // 20):
                    await endpoint.infer(rng.normal(size=(20, 4)).astype(np.float32))

    asyncio.run(go())


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """What an endpoint recorded whose policy explores."""
    folder = tmp_path_factory.mktemp("recorded")
    policy = {"name": "Explore", "policy": {"name": "Threshold", "threshold": 0.5}, "epsilon": 0.3}
    serve_some(folder, models / "unsure.onnx", folder / "record", policy)
    return folder / "record"


def test_a_tier_records_and_record_show_says_what(explored: Path, capsys: Captured) -> None:
    """Rows, policy, actions, propensities; nothing was lost."""
    recorded = read_recording(explored)
    assert len(recorded) == 600
    assert 0 < recorded.columns["propensity"].min() < 1
    up = recorded.columns["action"] == 1
    assert (recorded.columns["upper_label"][up] == recorded.columns["label"][up]).all()
    assert run("record", "show", explored, "--rows", 2) == 0
    said = capsys.readouterr().out
    assert "600 rows of endpoint" in said
    assert "never sent up 0.00 %" in said


def test_a_recording_judges_another_policy(
    explored: Path, policy: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    """Both tiers run the same model, so any policy agrees with the tier above: 100 %."""
    arguments = ["--recording", explored, "--policy", policy(), "--costs", ".1,1", "--out", tmp_path]
    assert run("policy", "evaluate", *arguments) == 0
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert data["accuracy"] == pytest.approx(1)
    assert data["relative_cost"] == pytest.approx(0.1 + data["share"]["upstream"])
    assert data["off_policy"]["effective_rows"] > 50
    assert "doubly robust" in capsys.readouterr().out


def test_a_recording_without_chance_is_refused(
    tmp_path: Path, models: Path, policy: Callable[..., Path], capsys: Captured
) -> None:
    """Exit 1: what a fixed threshold never sent up is not known."""
    serve_some(tmp_path, models / "unsure.onnx", tmp_path / "r", {"name": "Threshold", "threshold": 0.5}, rows=200)
    line = complaint(capsys, 1, "policy", "evaluate", "--recording", tmp_path / "r", "--policy", policy())
    assert "never sent up" in line
    assert "Explore" in line


def test_a_merged_recording_is_fitted_to(
    tmp_path: Path, models: Path, policy: Callable[..., Path], capsys: Captured
) -> None:
    """record merge makes a trace that policy fit reads: from a tier that escalates everything, a fair one."""
    serve_some(tmp_path, models / "unsure.onnx", tmp_path / "r", {"name": "AlwaysEscalate"}, rows=400)
    out = tmp_path / "trace.npz"
    assert run("record", "merge", tmp_path / "r", "--out", out) == 0
    assert "no trace" in capsys.readouterr().out
    assert run("record", "merge", tmp_path / "r", "--truth", "upper", "--out", out) == 0
    assert "200 cal and 200 test rows" in capsys.readouterr().out
    trace = load_trace(out, "test")
    assert trace.names == ("endpoint", "edge_server")
    assert np.allclose(trace.posteriors[0], trace.posteriors[1])
    risk = policy("r.yaml", "name: RiskControlled\nalpha: 0.05\n")
    assert run("policy", "fit", "--trace", out, "--policy", risk, "--out", tmp_path / "f") == 0
    assert run("policy", "evaluate", "--trace", out, "--policy", tmp_path / "f" / "policy.yaml") == 0


@pytest.mark.skipif(not (DATA / "traces").is_dir(), reason="needs the public traces: set ESCALADE_DATA")
@pytest.mark.parametrize("name", ["fashion", "digits", "fsdd_in", "wallrobot"])
def test_the_public_traces_are_read(name: str, policy: Callable[..., Path], tmp_path: Path) -> None:
    """Every trace with logits or log-probabilities is evaluated and drawn."""
    file = DATA / "traces" / f"{name}.npz"
    assert run("policy", "evaluate", "--trace", file, "--policy", policy(), "--costs", COSTS, "--out", tmp_path) == 0
    data = json.loads((tmp_path / "evaluation.json").read_text())
    with np.load(file) as archive:
        right = [softmax(archive[f"t{t}_test"]).argmax(axis=1) == archive["y_test"] for t in (1, 2, 3)]
    assert data["accuracy_top"] == right[2].mean()
    assert list(data["accuracy_by_tier"].values()) == [one.mean() for one in right]
