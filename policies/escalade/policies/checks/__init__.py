"""The conformance kit for policies, for tests of one's own."""

from escalade.policies.checks.check import RULES, check_policy

__all__ = ["RULES", "check_policy"]
