"""`escalade policy fit` and `certify`: from calibration data to a policy's YAML and state."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

from escalade.cli.policy.inputs import PolicyFile, make_folder, progress, read_trace, with_score
from escalade.policies import FitError, FittedPolicy, PolicyConfigError, TraceError, load_policy
from escalade.policies.state_file import save_state
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from escalade.policies import Trace


def fit(arguments: argparse.Namespace) -> int:
    """Fit a policy and what it is made of; write its YAML and state; return 0.

    Raises
    ------
    SetupError
        If the policy needs no fit.
    FitError
        If the data cannot support it.
    """
    source = _single(arguments.policy)
    file, trace = read_trace(arguments, "cal")
    spec = with_score(_mapping(source), arguments.score)
    out = make_folder(arguments.out)
    with progress(f"fitting {spec.get('name')}"), _warnings_as_lines():
        written, fitted = _fit_spec(spec, trace, source.path, out, str(file.path))
    if not fitted:
        raise SetupError(f"{source.path}: {spec.get('name')} needs no fit; name it in the tier's YAML as it is")
    _write_yaml(out / "policy.yaml", written, trace)
    print(f"fitted {', '.join(repr(one) for one in fitted)} to {len(trace)} rows of {file.path}")
    print(f"wrote {out / 'policy.yaml'} and its state; in a tier's YAML: policy: {json.dumps(written)}")
    if trace.tiers > 2 and any("level" in one.__dict__ for one in fitted):
        print(f"level 0 is {trace.names[0]}; give the policies of the tiers above it level: 1 and so on")
    return 0


def certify(arguments: argparse.Namespace) -> int:
    """Fit thresholds with a guarantee; write certificate, YAML and state; return 0.

    Raises
    ------
    FitError
        If the data cannot give it; the text says about how many labels would.
    """
    from escalade.policies.risk_controlled import RiskControlled

    source = _single(arguments.policy) if arguments.policy else None
    spec: dict[str, Any] = dict(_mapping(source)) if source else {"name": "RiskControlled"}
    for name in ("alpha", "delta"):
        if getattr(arguments, name) is not None:
            spec[name] = getattr(arguments, name)
    if source is None and "alpha" not in spec:
        raise SetupError("--alpha is needed: the accuracy that may be given up, such as 0.02")
    if arguments.model:
        spec["models"] = [_digest(model) for model in arguments.model]
    spec = with_score(spec, arguments.score)
    where = source.path if source else arguments.out / "policy.yaml"
    try:
        policy = load_policy({k: v for k, v in spec.items() if k != "state"}, folder=where.parent, unfitted=True)
    except PolicyConfigError as error:
        raise SetupError(f"{where}: {error}") from error
    if not isinstance(policy, RiskControlled):
        raise SetupError(f"{where}: {spec.get('name')} gives no guarantee; use RiskControlled")
    file, trace = read_trace(arguments, "cal")
    with progress("certifying"), _warnings_as_lines():
        try:
            policy.fit(trace)
        except TraceError as error:
            raise error.named(file=str(file.path)) from error
    out = make_folder(arguments.out)
    certificate = policy.certificate
    (out / "certificate.json").write_text(certificate.to_json() + "\n", encoding="utf-8")
    save_state(out / "state.npz", policy)
    written = {**{name: value for name, value in spec.items() if name not in ("models", "state")}, "state": "state.npz"}
    _write_yaml(out / "policy.yaml", written, trace)
    print(
        f"certified on {certificate.n} rows: at most {100 * certificate.alpha:g} % of accuracy given up against "
        f"{trace.names[-1]}, with {100 * (1 - certificate.delta):g} % confidence"
    )
    print(f"measured {100 * certificate.measured:.2f} %, upper bound {100 * certificate.bound:.2f} %")
    print(f"wrote {out / 'certificate.json'}, {out / 'policy.yaml'} and its state")
    if not arguments.model:
        print("no --model was named: the certificate is bound to no model", file=sys.stderr)
    elif len(arguments.model) < trace.tiers:
        print(
            f"{len(arguments.model)} of {trace.tiers} models were named: the certificate is not bound to the others",
            file=sys.stderr,
        )
    return 0


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print what a fit warns of as one line each, on standard error."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    for one in dict.fromkeys(str(warning.message) for warning in seen):
        print(f"escalade: warning: {' '.join(one.split())}", file=sys.stderr)


def _fit_spec(
    spec: dict[str, Any], trace: Trace, source: Path, out: Path, trace_file: str, count: int = 0
) -> tuple[dict[str, Any], list[FittedPolicy]]:
    """Fit the parts of a policy, then itself; return its mapping with the states' names, and what was fitted."""
    written: dict[str, Any] = {}
    fitted: list[FittedPolicy] = []

    def inner(value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            part, more = _fit_spec(value, trace, source, out, trace_file, count + len(fitted))
            fitted.extend(more)
            return part
        return [inner(one) for one in value] if isinstance(value, list) else value

    for name, value in spec.items():
        if name != "state":
            written[name] = inner(value)
    try:
        policy = load_policy(written, folder=out, unfitted=True)
    except PolicyConfigError as error:
        raise SetupError(f"{source}: {error}") from error
    if isinstance(policy, FittedPolicy):
        try:
            policy.fit(trace)
        except TraceError as error:
            raise error.named(file=trace_file) from error
        except FitError as error:
            raise FitError(f"{type(policy).__name__}: {error}") from error
        number = count + len(fitted)
        state = f"state-{number + 1}.npz" if number else "state.npz"
        save_state(out / state, policy)
        written["state"] = state
        fitted.append(policy)
    return written, fitted


def _write_yaml(file: Path, spec: dict[str, Any], trace: Trace) -> None:
    head = f"# Fitted by `escalade policy` to {len(trace)} rows of {', '.join(trace.names)}.\n"
    file.write_text(head + yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _single(paths: list[Path]) -> PolicyFile:
    if len(paths) != 1:
        raise SetupError(f"one --policy at a time, got {len(paths)}")
    return PolicyFile.read(paths[0])


def _mapping(source: PolicyFile) -> dict[str, Any]:
    if isinstance(source.spec, list):
        raise SetupError(f"{source.path}: one policy is fitted for all tiers at once; give a mapping, not a list")
    return source.spec


def _digest(model: Path) -> str:
    from hashlib import sha256

    try:
        return sha256(model.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(f"--model {model}: cannot be read: {error.strerror}") from error
