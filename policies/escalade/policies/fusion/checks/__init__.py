"""The conformance kit for fusion rules, for tests of one's own."""

from escalade.policies.fusion.checks.check import DEMANDS, check_fusion

__all__ = ["DEMANDS", "check_fusion"]
