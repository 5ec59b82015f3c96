"""`escalade policy evaluate --recording`, and `escalade record`: what tiers have recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.cli.policy.inputs import PolicyFile, make_folder, progress, score_of
from escalade.cli.policy.judge import write
from escalade.policies import UNKNOWN, Action
from escalade.simulations.off_policy import estimate
from escalade.simulations.recording_file import merge, read_recording, summary, trust_upper, with_labels
from escalade.tiers.at_rest import open_seal
from escalade.tiers.config_file import load_config
from escalade.tiers.errors import SetupError
from escalade.tiers.outbox.sealing import UNSEALED

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from escalade.simulations.recording_file import Recorded


def judge_recorded(arguments: argparse.Namespace) -> int:
    """Say what a policy would have done on traffic that another one decided on; return 0.

    Raises
    ------
    OffPolicyError
        If the recorded propensities do not support it.
    """
    if arguments.trace is not None:
        raise SetupError("--trace and --recording: name one of them")
    if len(arguments.policy) != 1:
        raise SetupError("evaluate takes one --policy")
    source = PolicyFile.read(arguments.policy[0])
    policy = source.load()
    if isinstance(policy, list):
        raise SetupError(f"{source.path}: a recording is of one tier: give the policy of that tier, not a list")
    recorded = _read(arguments.recording, arguments.labels, arguments.config)
    score_name = recorded.meta.get("score")
    asked = score_of([policy], arguments.score, None).name
    if score_name and score_name != asked and (arguments.score or asked != "max_prob"):
        raise SetupError(f"the recording holds the score {score_name}, but the policy decides on {asked}")
    if arguments.costs is not None and len(arguments.costs) != 2:
        raise SetupError("--costs: a recording is of one tier and the one above: two prices")
    costs = arguments.costs or (0.0, 1.0)
    if not costs[1] > 0:
        raise SetupError("--costs: the price of the upper tier must be above 0")
    logged = recorded.logged()
    reference = arguments.reference or ("truth" if (logged.truth != UNKNOWN).all() else "upper")
    with progress("judging"):
        found = estimate(logged, policy, reference=reference, seed=arguments.seed)
    cost = (costs[0] + costs[1] * found.share_up) / costs[1]
    right = "the true labels" if reference == "truth" else "the tier above"
    print(f"{arguments.recording}: {found.rows} rows, recorded under {_policy_name(recorded)}")
    print(f"{source.name} would have")
    print(f"  sent up         {_percent(found.share_up)}  {_between(found.share_up_interval)}")
    print(f"  been right      {_percent(found.accuracy)}  {_between(found.interval)}  against {right}")
    print(f"  doubly robust   {_percent(found.accuracy_dr)}  {_between(found.interval_dr)}")
    print(f"  relative cost   {cost:.4f}")
    print(f"  the recording is worth {found.effective_rows:.0f} rows to it")
    if found.unanswered:
        print(f"  {_percent(found.unanswered)} of the escalations had no answer: taken as lost by chance")
    if arguments.out:
        below, above = str(recorded.meta.get("tier", "local")), "upstream"
        data = {
            "recording": arguments.recording.name,
            "policy": source.name,
            "accuracy": found.accuracy,
            "share": {below: 1 - found.share_up, above: found.share_up},
            "relative_cost": cost,
            "off_policy": found.to_dict(),
        }
        write(make_folder(arguments.out), "evaluation", data)
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print what a recording holds; return 0."""
    recorded = _read(arguments.folder, None, arguments.config)
    facts = summary(recorded)
    print(f"{arguments.folder}: {facts['rows']} rows of {facts['tier']}, model {facts['model']}")
    print(f"  from {_time(facts['from_s'])} to {_time(facts['to_s'])}")
    print(f"  policy {json.dumps(facts['policy'])}, score {facts['score']}")
    print("  " + ", ".join(f"{name} {_percent(share)}" for name, share in facts["actions"].items() if share))
    print(f"  answered above {_percent(facts['answered_above'])}, labelled {_percent(facts['labelled'])}")
    for reason, count in facts["degraded"].items():
        print(f"  degraded: {reason} {count}")
    print(f"  least propensity {facts['least_propensity']:.3g}; never sent up {_percent(facts['never_escalated'])}")
    if facts["never_escalated"]:
        print("  what the tier above says of these is not known: see docs/policies/evaluation.md")
    column = recorded.columns
    for row in range(max(0, len(recorded) - arguments.rows), len(recorded)):
        above = int(column["upper_label"][row])
        print(
            f"  {int(column['id'][row])}  {_time(float(column['time_s'][row]))}  score {column['score'][row]:.4f}  "
            f"label {column['label'][row]}  {Action(int(column['action'][row])).name.lower()} "
            f"(propensity {column['propensity'][row]:.3g})" + (f"  above: {above}" if above != UNKNOWN else "")
        )
    return 0


def merge_chunks(arguments: argparse.Namespace) -> int:
    """Write a recording as one file, which is a trace too where enough is known; return 0."""
    recorded = _read(arguments.folder, arguments.labels, arguments.config)
    if arguments.truth == "upper":
        recorded = trust_upper(recorded)
    if arguments.out.suffix != ".npz":
        raise SetupError(f"--out {arguments.out}: must end in .npz")
    make_folder(arguments.out.parent)
    counts = merge(recorded, arguments.out, test_share=arguments.test_share)
    print(f"wrote {arguments.out}: {counts['rows']} rows")
    complete = counts["cal"] + counts["test"]
    if not complete:
        print("  no trace: no row has both tiers' answers and a true label; give --labels, or --truth upper")
    else:
        print(f"  a trace of {counts['cal']} cal and {counts['test']} test rows")
    if 0 < complete < counts["rows"]:
        print(
            f"  these are {_percent(complete / counts['rows'])} of the rows: those that went up, or were labelled. "
            "They are no fair sample unless chance chose them; for a fair one record under AlwaysEscalate"
        )
    return 0


def _read(place: Path, labels: Path | None, config: Path | None) -> Recorded:
    """Return a recording; `config` is the YAML of the tier whose keys open it."""
    recorded = read_recording(place, open_seal(load_config(config).at_rest) if config else UNSEALED)
    for name in recorded.broken:
        print(f"{place / name}: cut short or no chunk, left out")
    return recorded if labels is None else with_labels(recorded, labels)


def _policy_name(recorded: Recorded) -> str:
    policy: Any = recorded.meta.get("policy", "?")
    return str(policy.get("name", policy)) if isinstance(policy, dict) else str(policy)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _between(limits: tuple[float, float]) -> str:
    return f"[{100 * limits[0]:.2f}, {100 * limits[1]:.2f}]"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if np.isfinite(seconds) else "-"
