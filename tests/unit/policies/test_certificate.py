"""What a certificate refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from escalade.policies import Certificate

FIELDS: dict[str, Any] = {
    "n": 1000,
    "n_test": 500,
    "alpha": 0.02,
    "delta": 0.1,
    "loss": "regret",
    "score": "max_prob",
    "thresholds": [[0.75, 0.5], [0.6]],
    "p_value": 0.03,
    "bound": 0.017,
    "measured": 0.011,
    "models": ["a" * 64, None, "c" * 64],
    "data_digest": "b" * 64,
    "date": "2025-01-31",
}


def test_it_comes_back_from_json_as_it_was() -> None:
    """Every field survives the text, thresholds to the last bit."""
    certificate = Certificate.of(**{**FIELDS, "thresholds": [[0.699999988079071, 1e-45]]})
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert set(json.loads(certificate.to_json())) >= set(FIELDS) | {"policy_digest", "version"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.01),
        ("delta", 0.01),
        ("thresholds", [[0.7, 0.5], [0.6]]),
        ("n", 2000),
        ("loss", "net"),
        ("models", []),
        ("p_value", 0.0001),
        ("bound", 0.0001),
        ("data_digest", "d" * 64),
        ("date", "2026-01-31"),
    ],
)
def test_one_that_was_changed_is_refused(field: str, value: object) -> None:
    """Another promise, other thresholds or other evidence under the same digest are refused."""
    fields = json.loads(Certificate.of(**FIELDS).to_json())
    with pytest.raises(ValueError, match=r"not a valid certificate: it was changed after it was made"):
        Certificate.from_json(json.dumps({**fields, field: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": [[float("nan")]]}, r"thresholds.0.0: .*finite"),
        ({"alpha": 1.5}, "alpha: "),
        ({"models": ["abc"]}, "models.0"),
        ({"surprise": 1}, "surprise: "),
        ({"n": None}, "n: "),
        ({"version": 2}, "version: "),
        ({"date": "yesterday"}, "date: "),
    ],
)
def test_what_is_no_certificate_is_refused(change: dict[str, object], message: str) -> None:
    """The error names the field."""
    text = json.dumps({**json.loads(Certificate.of(**FIELDS).to_json()), **change})
    with pytest.raises(ValueError, match=f"not a valid certificate: {message}"):
        Certificate.from_json(text)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "null"])
def test_other_text_is_refused(text: str) -> None:
    """Text that is no certificate at all is refused as one."""
    with pytest.raises(ValueError, match="not a valid certificate"):
        Certificate.from_json(text)


def test_another_model_is_refused_by_both_digests() -> None:
    """The error names the certified model and the one that is there; a tier without a digest takes any."""
    certificate = Certificate.of(**FIELDS)
    certificate.check_model(0, "a" * 64)
    certificate.check_model(1, "f" * 64)
    certificate.check_model(7, "f" * 64)
    with pytest.raises(ValueError, match=f"tier 3: it names SHA-256 {'c' * 64}, the model is {'f' * 64}"):
        certificate.check_model(2, "f" * 64)
