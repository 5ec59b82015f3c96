"""A policy's parameters, checked against its constructor before it is called: `checked_parameters`."""

from __future__ import annotations

import types
from inspect import Parameter, formatannotation, signature
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import ConfigDict, Field, PlainValidator, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_json

from escalade.policies.errors import PolicyConfigError, did_you_mean
from escalade.policies.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def checked_parameters(
    kind: type[Policy], values: Mapping[str, object], key: str, nested: Callable[[Any, str], Policy]
) -> dict[str, Any]:
    """Validate `values` as keyword arguments of ``kind(...)`` and convert them to the annotated types.

    The rules are those of data read from a file: a list may stand for a tuple or set, a string for a
    path or an enum's value, a whole number for a float; ``"0.8"`` or ``true`` for a number may not.
    A parameter annotated as a `Policy`, or as a container of them, is given to `nested`.

    Parameters
    ----------
    kind
        The policy's class.
    values
        Parameters by name, as read from a file.
    key
        Where the policy stands in the configuration, for errors.
    nested
        Builds a policy from its specification and the key where that stands.

    Raises
    ------
    PolicyConfigError
        For the first thing wrong, an unknown parameter before all else.

    Examples
    --------
    >>> from escalade.policies.threshold import Threshold
    >>> checked_parameters(Threshold, {"threshold": 1}, "policy", nested=lambda spec, key: spec)
    {'threshold': 1.0}
    """
    parameters = _constructor(kind, key)
    names = [name for name, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD]
    if len(names) == len(parameters):
        for name in values:
            if name not in names:
                takes = f"{did_you_mean(name, names)} It takes {', '.join(names) or 'none'}"
                raise PolicyConfigError(f"{key}.{name}", f"{kind.__name__} has no parameter '{name}'{takes}")
    fields: dict[str, Any] = {}
    for number, name in enumerate(names):
        annotation = _loading(_annotation(parameters[name]), f"{key}.{name}", nested)
        required = parameters[name].default is Parameter.empty
        # Numbered and aliased, since a parameter may be called as a method of BaseModel is.
        fields[f"p{number}"] = (annotation, Field(alias=name) if required else Field(None, alias=name))
    config = ConfigDict(strict=True, extra="allow", arbitrary_types_allowed=True)
    try:
        model = create_model(kind.__name__, __config__=config, **fields)
        valid = model.model_validate_json(to_json(dict(values), inf_nan_mode="constants"))
    except ValidationError as error:
        raise _translated(error, kind, key, parameters) from error
    except PydanticSerializationError as error:
        raise PolicyConfigError(key, f"parameters must be plain data, as in a YAML file: {error}") from error
    except Exception as error:
        raise PolicyConfigError(
            key, f"cannot check the parameters of {kind.__name__}: {type(error).__name__}: {error}"
        ) from error
    given = {f"p{number}": name for number, name in enumerate(names) if name in values}
    return {name: getattr(valid, field) for field, name in given.items()} | (valid.__pydantic_extra__ or {})


def _constructor(kind: type[Policy], key: str) -> dict[str, Parameter]:
    try:
        parameters = signature(kind, eval_str=True).parameters
    except NameError as error:
        raise PolicyConfigError(
            key,
            f"the annotations of {kind.__name__}.__init__ cannot be read: {error}; "
            "import that name at run time, not only for type checking",
        ) from error
    unnamed = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
    return {name: p for name, p in parameters.items() if p.kind not in unnamed}


def _annotation(parameter: Parameter) -> Any:
    return Any if parameter.annotation is Parameter.empty else parameter.annotation


def _loading(annotation: Any, key: str, nested: Callable[[Any, str], Policy]) -> Any:
    """Return the annotation with every policy class in it replaced by one that loads it."""
    if isinstance(annotation, type) and issubclass(annotation, Policy):

        def load(spec: Any) -> Policy:
            policy = nested(spec, key)
            if not isinstance(policy, annotation):
                raise PolicyConfigError(key, f"expected a {annotation.__name__}, got a {type(policy).__name__}")
            return policy

        return Annotated[Any, PlainValidator(load)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    loading = tuple(_loading(argument, key, nested) for argument in arguments)
    if origin is None or loading == arguments:
        return annotation
    return Union[loading] if origin in (Union, types.UnionType) else origin[loading]  # noqa: UP007 - built from a tuple


def _translated(
    error: ValidationError, kind: type[Policy], key: str, parameters: Mapping[str, Parameter]
) -> PolicyConfigError:
    problems = error.errors(include_url=False)
    for problem in problems:
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, PolicyConfigError):  # from a nested policy, which does not know its place in a list
            inside = cause.key.removeprefix(f"{key}.{problem['loc'][0]}")
            return PolicyConfigError(_place(key, problem["loc"]) + inside, cause.message)
    first = problems[0]
    name = str(first["loc"][0])
    where = _place(key, first["loc"])
    annotation = _annotation(parameters[name])
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    expected = formatannotation(annotation).removeprefix("typing.")
    if first["type"] == "missing":
        return PolicyConfigError(where, f"{kind.__name__} needs it ({expected}); add {name}: ...")
    message = first["msg"][:1].lower() + first["msg"][1:]
    return PolicyConfigError(where, f"{message}, got {first['input']!r} (a {expected} is expected)")


def _place(key: str, location: tuple[int | str, ...]) -> str:
    """Return the dotted key of a value that pydantic blames; what it adds for unions is no key of the file."""
    return ".".join([key, str(location[0]), *(str(part) for part in location[1:] if isinstance(part, int))])
