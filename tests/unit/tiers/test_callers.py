"""Who asks travels in a request's parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.protos.oip.open_inference_pb2 import ModelInferRequest
from escalade.tiers.caller import PLAIN, Caller
from escalade.tiers.errors import InputError
from escalade.tiers.outbox.item import PRIORITIES
from escalade.tiers.wire.callers import HOPS_KEPT, read_caller
from escalade.tiers.wire.messages import request_bytes

NAMES = st.text(st.characters(codec="utf-8"), max_size=40)


@given(st.builds(Caller, NAMES, st.sampled_from(PRIORITIES), st.booleans(), NAMES, st.integers(0, HOPS_KEPT)))
def test_what_is_written_of_a_caller_is_read_again(caller: Caller) -> None:
    """A request carries device, priority, keeps, delivery and hops, whatever the names hold."""
    data = request_bytes(np.zeros((1, 2), np.float32), model="m", input_name="x", caller=caller)
    assert read_caller(ModelInferRequest.FromString(data)) == caller


def test_a_caller_who_says_nothing_is_the_plain_one() -> None:
    """The object itself: the tiers compare by identity on the hot path."""
    assert read_caller(ModelInferRequest()) is PLAIN


@pytest.mark.parametrize(
    ("number", "priority"), [(0, "normal"), (1, "critical"), (2, "normal"), (3, "bulk"), (9, "bulk")]
)
def test_tritons_priority_numbers_mean_the_same(number: int, priority: str) -> None:
    """`tritonclient`'s `priority` argument arrives as a number, 1 the most urgent."""
    message = ModelInferRequest()
    message.parameters["priority"].uint64_param = number
    assert read_caller(message).priority == priority


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("escalade.priority", "urgent", "must be one of critical, normal, bulk; got 'urgent'"),
        ("escalade.device", 7, "must be a string_param"),
        ("escalade.delivery", "x" * 257, "longer than 256 bytes"),
        ("escalade.hops", "many", "must be an int64_param of 0 or more"),
        ("escalade.hops", -1, "must be an int64_param of 0 or more"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str | int, words: str) -> None:
    """The caller learns which parameter is wrong and what it may be."""
    message = ModelInferRequest()
    if isinstance(value, int):
        message.parameters[name].int64_param = value
    else:
        message.parameters[name].string_param = value
    with pytest.raises(InputError, match=words):
        read_caller(message)
