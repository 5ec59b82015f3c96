"""What of the observations for an aggregator may leave, and the count of what left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.tiers.aggregator.observation import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from escalade.tiers.egress import DataClass
    from escalade.tiers.egress_ledger import EgressLedger

HELD_BACK = Verdict("egress", "it may not leave: see aggregate.egress")


class ReportGate:
    """Looks into observations as they are about to be sent, whenever and by whatever configuration they were made.

    Parameters
    ----------
    egress:
        The classes of data that may leave.
    inputs:
        What the tier's inputs are.
    ledger, destination, device:
        Where, and as what, messages are counted; one with several observations as the most telling of them.
    """

    def __init__(
        self,
        egress: Collection[DataClass],
        inputs: DataClass,
        ledger: EgressLedger,
        destination: str,
        device: str,
    ) -> None:
        self._egress, self._inputs = egress, inputs
        self._ledger, self._destination, self._device = ledger, destination, device

    def classes(self, encoded: Sequence[bytes]) -> list[DataClass | None]:
        """Return the class of each observation; None for one that may not leave."""
        return [self._class_of(one) for one in encoded]

    def sent(self, classes: Sequence[DataClass | None], size: int) -> None:
        """Count a message that held observations of these classes."""
        ranked: tuple[DataClass, ...] = ("raw", "features", "posterior")
        data = next(one for one in ranked if one in classes)
        self._ledger.sent(data, self._destination, self._device, size)

    def _class_of(self, encoded: bytes) -> DataClass | None:
        message = pb.Observation.FromString(encoded)
        held: list[DataClass] = ["posterior"]
        if message.features:
            held.append("features")
        if message.HasField("raw"):
            held.append(self._inputs)
        return held[-1] if all(one in self._egress for one in held) else None
