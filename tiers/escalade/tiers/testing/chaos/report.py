"""What a run found, as a table on the terminal and as `chaos.json`."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.testing.chaos.checker import accepted
from escalade.tiers.testing.chaos.timing import Times, episodes, noticed, recovered, times

if TYPE_CHECKING:
    from escalade.tiers.testing.chaos.history import Fault
    from escalade.tiers.testing.chaos.run import Outcome

SHOWN = 10
"""So many violations are printed; all of them are in the files."""


class FaultRow(NamedTuple):
    """One fault, and how the tiers fared meanwhile; None where it says nothing of that."""

    fault: Fault
    times: Times
    noticed_s: float | None
    recovered_s: float | None


def fault_rows(outcome: Outcome) -> list[FaultRow]:
    """Return a row for each fault, in order; a recovery stands beside the last fault of those that overlap."""
    history, rows = outcome.history, []
    for episode in episodes(history.faults):
        recovery, notice = recovered(history, episode, outcome.rules), noticed(history, episode, outcome.rules)
        rows += [
            FaultRow(
                fault,
                times(history, fault.start_s, fault.stop_s),
                notice.after_s if notice else None,
                recovery.after_s if recovery and fault is episode.faults[-1] else None,
            )
            for fault in episode.faults
        ]
    return rows


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return everything as JSON values."""
    history, rules = outcome.history, outcome.rules
    ends = [end for _, end in accepted(history, rules)]
    reasons = Counter(answer.reason for answer in history.answers if answer.degraded)
    return {
        "seed": outcome.seed,
        "requests": len(history.requests),
        "accepted": len(ends),
        "answered": len(history.answers),
        "degraded": dict(reasons),
        "kept": sum(bool(answer.kept) for answer in history.answers),
        "not_kept": sum(answer.degraded and not answer.kept for answer in history.answers),
        "corrections": len(history.corrections),
        "effects": dict(Counter(effect.tier for effect in history.effects)),
        "bound_ms": round(rules.bound_s * 1e3, 1),
        "bound": {
            "local_model_ms": round(rules.local_s * 1e3, 3),
            "budget_ms": round(rules.budget_s * 1e3, 1),
            "scheduling_allowance_ms": round(rules.allowance_s * 1e3, 1),
        },
        "notice_s": rules.notice_s,
        "recover_s": rules.recover_s,
        "durations_s": {name: round(seconds, 1) for name, seconds in outcome.durations_s.items()},
        "recorder_stalls_ms": round(sum(stall.late_s for stall in history.stalls) * 1e3, 1),
        "faults": [_fault(row) for row in fault_rows(outcome)],
        "skipped": outcome.skipped,
        "mutations": outcome.mutations,
        "violations": [violation._asdict() for violation in outcome.violations],
    }


def _fault(row: FaultRow) -> dict[str, Any]:
    numbers = {name: _number(value) for name, value in row.times._asdict().items()}
    return {
        "kind": row.fault.kind,
        "target": row.fault.target,
        "start_s": round(row.fault.start_s, 3),
        "stop_s": round(row.fault.stop_s, 3),
        **numbers,
        "noticed_s": _number(row.noticed_s),
        "recovered_s": _number(row.recovered_s),
    }


def _number(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None


HEAD = ("at s", "fault", "of", "for s", "asked", "degraded", "kept", "p50 ms", "p99 ms", "max ms", "noticed", "again")


def cells(row: FaultRow) -> tuple[str, ...]:
    """Return a fault as the table shows it."""
    fault, fared = row.fault, row.times
    counts = str(fared.requests), str(fared.degraded), str(fared.kept)
    numbers = [f"{value:.0f}" if math.isfinite(value) else "-" for value in (fared.p50_ms, fared.p99_ms, fared.max_ms)]
    ends = [_seconds(row.noticed_s), _seconds(row.recovered_s)]
    return f"{fault.start_s:.1f}", fault.kind, fault.target, f"{fault.seconds:.1f}", *counts, *numbers, *ends


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if math.isfinite(value) else "never"


def text(outcome: Outcome) -> str:
    """Return the table and what is to be said under it."""
    table = [HEAD, *(cells(row) for row in fault_rows(outcome))]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    words = {1, 2}
    lines = [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    lines += ["", *summary(outcome)]
    lines += [f"left out: {kind}: {why}" for kind, why in outcome.skipped.items()]
    shown = outcome.violations[:SHOWN]
    lines += [f"VIOLATION {one.kind}: {one.text} {' '.join(one.requests[:5])}".rstrip() for one in shown]
    if len(outcome.violations) > len(shown):
        lines.append(f"... and {len(outcome.violations) - len(shown)} more")
    return "\n".join(lines)


def summary(outcome: Outcome) -> list[str]:
    """Return the run in a few lines."""
    facts = as_dict(outcome)
    parts = facts["bound"]
    bound = f"bound: {facts['bound_ms']:.0f} ms = {parts['local_model_ms']:g} local model "
    bound += f"+ {parts['budget_ms']:g} configured budget + {parts['scheduling_allowance_ms']:g} for scheduling"
    counts = f"{facts['requests']} requests, {facts['accepted']} accepted, {len(facts['faults'])} faults"
    reasons = ", ".join(f"{count} {reason}" for reason, count in facts["degraded"].items()) or "none"
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in outcome.violations).items())
    lines = [
        f"seed {outcome.seed}: {counts}",
        f"degraded: {reasons}; {facts['kept']} kept, {facts['not_kept']} not, {facts['corrections']} corrections",
        bound,
        f"violations: {len(outcome.violations)}{f' ({kinds})' if kinds else ''}",
    ]
    off = [f"{name} ({'noticed' if seen else 'NOT NOTICED'})" for name, seen in outcome.mutations.items()]
    return [*lines, f"switched off to test the checker: {', '.join(off)}"] if off else lines
