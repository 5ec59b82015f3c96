"""Policies by the description in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from escalade.policies import (
    Action,
    AlwaysAccept,
    AlwaysEscalate,
    Context,
    Policy,
    PolicyConfigError,
    Threshold,
    check_policy,
    load_policy,
    save_state,
)
from escalade.policies.loading import BUILT_IN
from escalade.policies.state_file import to_json

WriteModule = Callable[[str], str]

POLICIES = """
    from __future__ import annotations
    from dataclasses import dataclass
    from enum import Enum
    from pathlib import Path
    from escalade.policies import Action, Batch, Decisions, Policy, Threshold

    class Mode(Enum):
        DAY = "day"
        NIGHT = "night"

    class Accepts(Policy):
        def decide(self, batch):
            return Decisions.of([Action.ACCEPT] * len(batch))

    class Typed(Accepts):
        def __init__(self, rate: float, count: int = 3, name_of: str = "x", mode: Mode = Mode.DAY,
                     limits: tuple[float, ...] = (), file: Path | None = None, schema=None):
            self.given = (rate, count, name_of, mode, limits, file, schema)

    class Nested(Accepts):
        def __init__(self, policy: Policy, rest: list[Policy] = [], cut: Threshold | None = None):
            self.policy, self.rest, self.cut = policy, rest, cut

    class Open(Accepts):
        def __init__(self, rate: float, **more: object):
            self.rate, self.more = rate, more

    @dataclass
    class Data(Accepts):
        rate: float
        count: int = 7

    class Fails(Accepts):
        def __init__(self, path: str):
            raise OSError(f"{path} is not there")

    class Abstract(Policy):
        pass

    class NotOne:
        pass

    class Outer:
        Inner = Accepts
"""


def complaint(spec: Any) -> PolicyConfigError:
    with pytest.raises(PolicyConfigError) as caught:
        load_policy(spec)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{name: Threshold, threshold: 0.8}", Threshold),
        ("{name: AlwaysAccept}", AlwaysAccept),
        ("{name: AlwaysEscalate}", AlwaysEscalate),
    ],
)
def test_a_built_in_policy_is_loaded_from_yaml(text: str, kind: type[Policy]) -> None:
    """A built-in policy is named by its class name, its parameters beside it."""
    assert type(load_policy(yaml.safe_load(text))) is kind


@pytest.mark.parametrize("threshold", [0.8, 1, 0.1 + 0.2, -inf, inf])
def test_a_number_arrives_exactly(threshold: float) -> None:
    """A parameter reaches the constructor bit for bit, a whole number as the float it stands for."""
    policy = load_policy({"name": "Threshold", "threshold": threshold})
    assert isinstance(policy, Threshold)
    assert policy.threshold == threshold
    assert type(policy.threshold) is float


def test_a_users_policy_is_loaded_and_keeps_the_rules(module: WriteModule) -> None:
    """A policy of twenty lines in a module of one's own is loaded by name and can be checked."""
    name = module(
        """
        import numpy as np
        from escalade.policies import Action, Batch, Decisions, Policy

        class Patient(Policy):
            '''Ask above only while at least `reserve_ms` are left for it.'''

            def __init__(self, threshold: float, reserve_ms: float = 50.0) -> None:
                self.threshold = np.float32(threshold)
                self.reserve_ms = reserve_ms

            def decide(self, batch: Batch) -> Decisions:
                hurried = batch.remaining_ms < self.reserve_ms
                accept = (batch.score >= self.threshold) | (hurried & (batch.score > -np.inf))
                return Decisions.of(np.where(accept, Action.ACCEPT, Action.ESCALATE))
        """
    )
    policy = load_policy({"name": f"{name}:Patient", "threshold": 0.9})
    assert policy.decide_one(0.5, Context(remaining_ms=200.0)) is Action.ESCALATE
    assert policy.decide_one(0.5, Context(remaining_ms=20.0)) is Action.ACCEPT
    check_policy(policy)


def test_parameters_become_what_they_are_annotated_as(module: WriteModule) -> None:
    """Lists become tuples, strings become enums and paths, and a default stays the constructor's."""
    name = module(POLICIES)
    spec = {
        "name": f"{name}:Typed",
        "rate": 1,
        "mode": "night",
        "limits": [1, 2.5],
        "file": "model.onnx",
        "schema": {"any": [1]},
    }
    given = vars(load_policy(spec))["given"]
    assert [str(value) for value in given] == [
        "1.0", "3", "x", "Mode.NIGHT", "(1.0, 2.5)", "model.onnx", "{'any': [1]}",
    ]  # fmt: skip


def test_a_dataclass_is_a_policy_too(module: WriteModule) -> None:
    """The fields of a dataclass are its parameters."""
    assert vars(load_policy({"name": f"{module(POLICIES)}:Data", "rate": 2})) == {"rate": 2.0, "count": 7}


def test_a_policy_may_take_any_further_parameters(module: WriteModule) -> None:
    """A constructor with ``**more`` gets what is not named, unchecked."""
    policy = load_policy({"name": f"{module(POLICIES)}:Open", "rate": 1, "more": 2, "schema": "x"})
    assert vars(policy) == {"rate": 1.0, "more": {"more": 2, "schema": "x"}}


def test_policies_nest(module: WriteModule) -> None:
    """A parameter that is a policy, or a list of them, is described in the same way."""
    name = module(POLICIES)
    inner = {"name": "Threshold", "threshold": 0.5}
    loaded = vars(load_policy({"name": f"{name}:Nested", "policy": inner, "rest": [inner, inner], "cut": inner}))
    assert repr(loaded) == (
        "{'policy': Threshold(0.5), 'rest': [Threshold(0.5), Threshold(0.5)], 'cut': Threshold(0.5)}"
    )
    outer = load_policy({"name": f"{name}:Nested", "policy": {"name": f"{name}:Nested", "policy": inner}})
    assert repr(vars(vars(outer)["policy"])["policy"]) == "Threshold(0.5)"
    assert vars(outer)["cut"] is None


@pytest.mark.parametrize("cut", [{"name": "Threshold", "treshold": 1}, {"name": "Threshold", "threshold": "x"}])
def test_a_mistake_in_a_nested_policy_is_found_there(module: WriteModule, cut: dict[str, object]) -> None:
    """The key of an error in a nested policy leads into it."""
    name = module(POLICIES)
    accept = {"name": "AlwaysAccept"}
    error = complaint({"name": f"{name}:Nested", "policy": {"name": f"{name}:Nested", "policy": cut}})
    assert error.key == f"policy.policy.policy.{list(cut)[1]}"
    assert complaint({"name": f"{name}:Nested", "policy": accept, "cut": cut}).key.startswith("policy.cut.")
    error = complaint({"name": f"{name}:Nested", "policy": accept, "cut": accept})
    assert str(error) == "policy.cut: expected a Threshold, got a AlwaysAccept"


def test_a_dotted_name_reaches_into_a_class(module: WriteModule) -> None:
    """A class within a class is named with a dot."""
    assert type(load_policy({"name": f"{module(POLICIES)}:Outer.Inner"})).__name__ == "Accepts"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("Threshold", "policy: expected a mapping such as {name: Threshold, threshold: 0.8}, got 'Threshold'"),
        (None, "policy: expected a mapping such as {name: Threshold, threshold: 0.8}, got None"),
        (
            {"threshold": 0.8},
            f"policy.name: name the policy: {', '.join(BUILT_IN)}, or module:Class for your own",
        ),
        (
            {"name": "Treshhold"},
            (
                "policy.name: no policy 'Treshhold'; did you mean 'Threshold'? "
                f"There are {', '.join(BUILT_IN)}, or module:Class for your own"
            ),
        ),
        (
            {"name": "Quux"},
            (f"policy.name: no policy 'Quux'. There are {', '.join(BUILT_IN)}, or module:Class for your own"),
        ),
        ({"name": "Threshold"}, "policy.threshold: Threshold needs it (float); add threshold: ..."),
        (
            {"name": "Threshold", "treshold": 0.8},
            "policy.treshold: Threshold has no parameter 'treshold'; did you mean 'threshold'? It takes threshold",
        ),
        (
            {"name": "AlwaysAccept", "rate": 1},
            "policy.rate: AlwaysAccept has no parameter 'rate'. It takes none",
        ),
        (
            {"name": "Threshold", "threshold": "0.8"},
            "policy.threshold: input should be a valid number, got '0.8' (a float is expected)",
        ),
        (
            {"name": "Threshold", "threshold": True},
            "policy.threshold: input should be a valid number, got True (a float is expected)",
        ),
        (
            {"name": "Threshold", "threshold": None},
            "policy.threshold: input should be a valid number, got None (a float is expected)",
        ),
        (
            {"name": "Threshold", "threshold": nan},
            "policy: Threshold cannot be built: threshold must be a number, got nan",
        ),
        ({"name": "my module:X"}, "policy.name: 'my module:X' is not of the form package.module:Name"),
        ({"name": "mine:"}, "policy.name: 'mine:' is not of the form package.module:Name"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(spec: Any, text: str) -> None:
    """The text of an error says what is wrong, where, and what to do."""
    assert str(complaint(spec)) == text


def test_a_module_that_is_not_found_is_named_with_where_it_was_looked_for(module: WriteModule) -> None:
    """A missing module, or a missing package around it, is named together with the search path."""
    module("")
    for target, missing in (("not_there:X", "not_there"), ("not_there.deep:X", "not_there")):
        error = complaint({"name": target})
        assert error.key == "policy.name"
        assert error.message.startswith(
            f"cannot import '{missing}' for '{target}'; put its folder on PYTHONPATH or install it (searched: "
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_there_either", "imports 'not_there_either', which is not there; install it"),
        ("1 / 0", "fails when it is imported: ZeroDivisionError: division by zero"),
        ("def f(:", "fails when it is imported: SyntaxError: "),
    ],
)
def test_a_module_that_fails_is_told_from_one_that_is_missing(module: WriteModule, text: str, message: str) -> None:
    """A module that is found but cannot be imported says why."""
    name = module(text)
    assert complaint({"name": f"{name}:X"}).message.startswith(f"module '{name}' {message}")


def test_a_name_that_the_module_lacks_is_met_with_a_suggestion(module: WriteModule) -> None:
    """A misspelt class is met with the closest name that the module has."""
    name = module("class Patient: pass")
    expected = f"no 'Patent' for '{name}:Patent'; did you mean 'Patient'? It has Patient"
    assert complaint({"name": f"{name}:Patent"}).message == expected


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("NotOne", "not a policy; derive it from escalade.policies.Policy"),
        ("POLICIES_FILE", "not a policy; derive it from escalade.policies.Policy"),
        ("Abstract", "has no method decide; every policy needs it"),
    ],
)
def test_what_is_no_policy_says_so(module: WriteModule, attribute: str, message: str) -> None:
    """A class that is no policy, something that is no class, and an unfinished policy are refused."""
    name = module(POLICIES + "\n    POLICIES_FILE = 3\n")
    assert complaint({"name": f"{name}:{attribute}"}).message.endswith(message)


@pytest.mark.parametrize(
    ("more", "key", "message"),
    [
        ({"count": 1.5}, "policy.count", "input should be a valid integer, got 1.5 (a int is expected)"),
        ({"mode": "noon"}, "policy.mode", "input should be 'day' or 'night', got 'noon'"),
        ({"limits": [1, "a"]}, "policy.limits.1", "input should be a valid number, got 'a'"),
        ({"file": 3}, "policy.file", "input should be a valid string, got 3"),
    ],
)
def test_a_value_of_the_wrong_type_is_found(
    module: WriteModule, more: dict[str, object], key: str, message: str
) -> None:
    """A value that does not fit its annotation is named with its place, inside a list too."""
    error = complaint({"name": f"{module(POLICIES)}:Typed", "rate": 1, **more})
    assert error.key == key
    assert error.message.startswith(message)


def test_a_constructor_that_fails_says_why(module: WriteModule) -> None:
    """What the constructor raises is passed on with the name of its class."""
    error = complaint({"name": f"{module(POLICIES)}:Fails", "path": "rates.csv"})
    assert str(error) == "policy: Fails cannot be built: OSError: rates.csv is not there"


def test_an_annotation_that_cannot_be_read_says_so(module: WriteModule) -> None:
    """A constructor annotated with a name that exists for type checkers only is refused with the reason."""
    name = module(
        """
        from __future__ import annotations
        from escalade.policies import AlwaysAccept

        class Hidden(AlwaysAccept):
            def __init__(self, rates: Rates) -> None: ...
        """
    )
    message = complaint({"name": f"{name}:Hidden", "rates": 1}).message
    assert message.endswith("name 'Rates' is not defined; import that name at run time, not only for type checking")


def test_parameters_must_be_plain_data() -> None:
    """An object that no file can hold is refused."""
    error = complaint({"name": "Threshold", "threshold": object()})
    assert error.message.startswith("parameters must be plain data, as in a YAML file")


FITTED = """
    from escalade.policies import Decisions, FittedPolicy, NotFittedError
    import numpy as np

    class Fitted(FittedPolicy):
        def __init__(self, level: int = 0) -> None:
            self.level, self.limit = level, None

        @property
        def fitted(self) -> bool:
            return self.limit is not None

        def fit(self, trace):
            self.limit = 0.5
            return self

        def decide(self, batch):
            return Decisions.of(np.where(batch.score >= np.float32(self.limit), 0, 1))

        def state_dict(self):
            return {"limit": self.limit}

        def load_state_dict(self, state):
            if list(state) != ["limit"]:
                raise ValueError(f"needs limit, got {sorted(state)}")
            self.limit = state["limit"]
"""


def test_a_fitted_policy_gets_its_fit_from_the_file_beside_the_configuration(
    module: WriteModule, tmp_path: Path
) -> None:
    """`state` is relative to the folder given; policies inside others have their own."""
    name = f"{module(FITTED)}:Fitted"
    save_state(tmp_path / "fit.npz", load_policy({"name": name}, unfitted=True).fit(None))  # type: ignore[attr-defined]
    spec = {"name": name, "level": 1, "state": "fit.npz"}
    assert vars(load_policy(spec, folder=tmp_path)) == {"level": 1, "limit": 0.5}
    outer = load_policy({"name": "Budgeted", "policy": spec, "share": 0.5}, folder=tmp_path)
    assert vars(vars(outer)["policy"])["limit"] == 0.5
    assert vars(load_policy({"name": name, "state": str(tmp_path / "fit.npz")}))["limit"] == 0.5


def test_what_a_policy_has_learnt_is_loaded_too(tmp_path: Path) -> None:
    """A policy that need not be fitted may have a state as well."""
    policy = load_policy({"name": "SloController"})
    policy.load_state_dict({"device": np.array([3]), "threshold": np.array([0.25], np.float32)})
    save_state(tmp_path / "slo.json", policy)
    loaded = load_policy({"name": "SloController", "state": "slo.json"}, folder=tmp_path)
    assert loaded.state_dict()["threshold"].tolist() == [0.25]


def test_a_policy_without_its_fit_is_refused_unless_it_is_to_be_fitted(module: WriteModule) -> None:
    """The error says how a fit is made and where it is named."""
    name = f"{module(FITTED)}:Fitted"
    error = complaint({"name": "Explore", "epsilon": 0.1, "policy": {"name": name}})
    assert error.key == "policy.policy.state"
    assert "`escalade policy fit`" in error.message
    assert not load_policy({"name": name}, unfitted=True).fitted  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("none.npz", "none.npz: cannot be read: No such file or directory"),
        ("broken.npz", "broken.npz: is no state file in npz"),
        ("other.json", "other.json: is the state of a Threshold, not of a SloController"),
        ("empty.json", "empty.json: does not fit this SloController: thresholds of devices have the entries"),
        ("x.pkl", "x.pkl: a state file's name ends in .npz or .json"),
        (3, "expected the name of a file, got 3"),
    ],
)
def test_a_state_that_cannot_be_loaded_is_named(state: object, text: str, tmp_path: Path) -> None:
    """The key is `state`, the text begins with the file."""
    (tmp_path / "broken.npz").write_text("hello")
    (tmp_path / "empty.json").write_bytes(to_json({}, "SloController"))
    save_state(tmp_path / "other.json", load_policy({"name": "Threshold", "threshold": 0.5}))
    with pytest.raises(PolicyConfigError) as caught:
        load_policy({"name": "SloController", "state": state}, folder=tmp_path)
    assert caught.value.key == "policy.state"
    assert text in caught.value.message


def test_a_mistake_in_a_list_of_policies_is_found_at_its_place() -> None:
    """The key has the number in the list."""
    first = {"name": "Threshold", "threshold": 0.5}
    error = complaint({"name": "FirstOf", "policies": [first, {"name": "Threshold", "threshold": "x"}]})
    assert error.key == "policy.policies.1.threshold"
