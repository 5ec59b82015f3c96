"""What may leave a tier, by what it tells of the input: classes of data. No clock, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from escalade.tiers.outbox.item import Item

DataClass = Literal["label", "posterior", "features", "raw"]
"""`label`: labels, scores, counts; `posterior`: class probabilities; `features`: what a model made of an input, from
which it cannot be seen again; `raw`: the input itself. Each is allowed by its name: none implies another."""

DATA_CLASSES: tuple[DataClass, ...] = get_args(DataClass)

_MARK = "-"


def report_id(name: str, data: DataClass) -> str:
    """Return the id of a report, from which its class can be told when it is sent, perhaps by another process."""
    return f"{name}{_MARK}{data}"


def report_class(report: Item) -> DataClass:
    """Return the class of a report; `raw` when its id does not say."""
    said = report.id.rpartition(_MARK)[2]
    return next((data for data in DATA_CLASSES if data == said), "raw")
