"""The simulator beside the real tiers: what was measured, what follows from it, how far the two are apart.

- `measured`: what a real run gave, and its figures
- `tables`: one run's times as a scenario, for any other load and policy
- `compare`: predicted against measured, with the targets, and the order of policies
- `report`: the table, the files, the page

Nothing here starts a process; `escalade simulate validate` does, and brings the runs.
"""
