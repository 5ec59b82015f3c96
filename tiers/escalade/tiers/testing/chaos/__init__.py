"""Tiers under traffic and faults, and a checker of what their callers saw. See `run.run` and docs/operations.md."""
