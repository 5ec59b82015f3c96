"""`escalade policy explain`: every number that led to the action on one input."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.cli.policy.inputs import PolicyFile, read_trace, score_of
from escalade.cli.policy.judge import plain
from escalade.policies import Action, Batch, Context, Policy, load_policy, load_score
from escalade.simulations.evaluate import cascade
from escalade.tiers.errors import SetupError

if TYPE_CHECKING:
    import argparse


def explain(arguments: argparse.Namespace) -> int:
    """Print score, posterior, thresholds, action and propensity of one input; return 0."""
    if (arguments.trace is None) == (arguments.input is None):
        raise SetupError("name a row of a --trace with --policy, or an --input with --config")
    found = [_from_input(arguments)] if arguments.trace is None else _from_trace(arguments)
    if arguments.json:
        print(json.dumps(plain(found), indent=2))
        return 0
    for one in found:
        print(one.pop("tier"))
        for name, value in one.items():
            print(f"  {name:<16}{_shown(value)}")
    return 0


def decision(policy: Policy, score: float, context: Context) -> dict[str, Any]:
    """Return what a policy says of one input: its own numbers, the action and its propensity."""
    decided = policy.decide(Batch.of_row(score, context))
    action = Action(int(decided.action[0]))
    return {
        **{name: value for name, value in policy.explain(score, context).items() if name != "score"},
        "uniform": context.uniform,
        "action": action.name.lower(),
        "propensity": float(decided.propensity[0]),
    }


def _from_trace(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Follow a row up the cascade to the tier that answers it."""
    if arguments.policy is None:
        raise SetupError("--policy is needed: whose decision is to be explained?")
    source = PolicyFile.read(arguments.policy)
    loaded = source.load()
    _, trace = read_trace(arguments, arguments.split)
    row = arguments.row
    if not 0 <= row < len(trace):
        raise SetupError(f"--row {row}: {arguments.trace} has rows 0 to {len(trace) - 1}")
    policies = cascade(loaded, trace.tiers)
    score = score_of(policies, arguments.score, trace)
    levels = range(trace.tiers) if arguments.level is None else [arguments.level]
    if arguments.level is not None and not 0 <= arguments.level < trace.tiers - 1:
        raise SetupError(f"--level {arguments.level}: policies decide at 0 to {trace.tiers - 2}")
    uniform = np.random.default_rng(arguments.seed).random(trace.tiers)
    found = []
    for level in levels:
        posterior = trace.posteriors[level][row]
        one: dict[str, Any] = {
            "tier": trace.names[level],
            "answer": int(trace.predictions[level][row]),
            "truth": int(trace.labels[row]),
            "posterior": [float(p) for p in posterior],
        }
        if level < len(policies):
            value = float(trace.take(np.array([row])).score(level, score)[0])
            context = Context(uniform=float(uniform[level]), posterior=posterior.tolist())
            one |= {"score": value, "score_name": score.name, "policy": repr(policies[level])}
            one |= decision(policies[level], value, context)
        else:
            one["action"] = "accept"
            one["why"] = "it is the top tier"
        found.append(one)
        if one["action"] in ("accept", "abstain"):
            break
    return found


def _from_input(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the tier's own model on a row of an array, as the tier does."""
    from escalade.tiers.at_rest import open_seal
    from escalade.tiers.config_file import load_config
    from escalade.tiers.head import Head
    from escalade.tiers.model import OnnxModel

    if arguments.config is None:
        raise SetupError("--config is needed: the YAML of the tier whose model and policy are asked")
    config = load_config(arguments.config)
    try:
        inputs = np.load(arguments.input, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SetupError(f"--input {arguments.input}: is not an npy file that can be read") from error
    model = OnnxModel(config.model, open_seal(config.at_rest))
    shape = tuple(model.input.row_shape)
    if not isinstance(inputs, np.ndarray) or inputs.ndim not in (len(shape), len(shape) + 1):
        raise SetupError(f"--input {arguments.input}: must hold {list(shape)} or rows of it")
    if inputs.ndim == len(shape):
        inputs = inputs[None]
    if not 0 <= arguments.row < len(inputs):
        raise SetupError(f"--row {arguments.row}: {arguments.input} has rows 0 to {len(inputs) - 1}")
    x = inputs[arguments.row : arguments.row + 1].astype(model.input.dtype)
    if any(want not in (-1, got) for want, got in zip(shape, x.shape[1:], strict=True)):
        raise SetupError(f"--input {arguments.input}: rows are {list(x.shape[1:])}, the model takes {list(shape)}")
    score = load_score(config.score, config.model.output_kind, temperature=config.model.temperature)
    posterior, label, value = Head(model, config.model.temperature, score).one(model.run(x))
    spec = PolicyFile.read(arguments.policy) if arguments.policy else PolicyFile(arguments.config, config.policy)
    policy = spec.load() if arguments.policy else load_policy(config.policy, folder=arguments.config.parent)
    if isinstance(policy, list):
        raise SetupError("a list of policies decides at several tiers; name one")
    if arguments.level is not None:
        policy = policy.at_tier(arguments.level)
    policy.check_model(model.sha256)
    context = Context(
        time_s=time.time(),
        uniform=float(np.random.default_rng(arguments.seed).random()),
        remaining_ms=config.limits.default_deadline_ms,
        bytes_up=x.nbytes,
        posterior=posterior,
    )
    return {
        "tier": config.tier,
        "model": f"{model.name} (sha256 {model.sha256[:12]})",
        "answer": label,
        "posterior": posterior,
        "score": value,
        "score_name": score.name,
        "policy": repr(policy),
        **decision(policy, value, context),
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value) + "]"
    return str(value)
