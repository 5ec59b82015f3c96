"""The aggregator's messages from and to what `escalade.tiers.aggregator` works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import numpy as np

from escalade.protos.v1 import aggregator_pb2 as pb
from escalade.tiers.aggregator.event import State
from escalade.tiers.aggregator.observation import REFUSALS, TRY_AGAIN, Observation, Raw, Verdict
from escalade.tiers.errors import InputError, UpstreamError
from escalade.tiers.wire.caps import parsed
from escalade.tiers.wire.rows import field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from escalade.tiers.aggregator.event import Answer, Event
    from escalade.tiers.aggregator.nodes import NodeStatus

SERVICE = pb.DESCRIPTOR.services_by_name["Aggregator"].full_name
_OBSERVATIONS = pb.ObserveRequest.OBSERVATIONS_FIELD_NUMBER
_CODES = {name: grpc.StatusCode[name].value[0] for name in grpc.StatusCode.__members__}
_TRY_AGAIN = {_CODES[status] for status in TRY_AGAIN}


def observation_from_proto(message: pb.Observation) -> Observation:
    """Return what a message says; vectors whose bytes are no float32 are empty, and refused as such."""
    return Observation(
        message.node,
        message.id,
        message.event,
        message.zone,
        message.observed_us / 1e6 if message.observed_us else None,
        _floats(message.posterior),
        _floats(message.features) if message.features else None,
        Raw(message.raw.datatype, tuple(message.raw.shape), message.raw.content) if message.HasField("raw") else None,
        message.label if message.HasField("label") else None,
    )


def observation_to_proto(observation: Observation) -> pb.Observation:
    """Return an observation as a message."""
    raw, features = observation.raw, observation.features
    return pb.Observation(
        node=observation.node,
        id=observation.id,
        event=observation.event,
        zone=observation.zone,
        observed_us=round(observation.observed_s * 1e6) if observation.observed_s is not None else 0,
        posterior=observation.posterior.astype("<f4").tobytes(),
        features=b"" if features is None else features.astype("<f4").tobytes(),
        raw=None if raw is None else pb.Tensor(datatype=raw.datatype, shape=raw.shape, content=raw.content),
        label=observation.label,
    )


def observe_request(tenant: str, sent_s: float, observations: Iterable[bytes]) -> bytes:
    """Return an ObserveRequest of observations that are serialised already."""
    head = pb.ObserveRequest(tenant=tenant, sent_us=round(sent_s * 1e6)).SerializeToString()
    return head + b"".join(field(_OBSERVATIONS, one) for one in observations)


def observations_from_bytes(data: bytes) -> tuple[list[Observation], str, float | None]:
    """Return a request's observations, its tenant and when it was sent; InputError when it cannot be read."""
    message = parsed(pb.ObserveRequest, data)
    sent_s = message.sent_us / 1e6 if message.sent_us else None
    return [observation_from_proto(one) for one in message.observations], message.tenant, sent_s


def verdicts_to_bytes(verdicts: Sequence[Verdict]) -> bytes:
    """Return an ObserveResponse."""
    return pb.ObserveResponse(
        verdicts=[
            pb.Verdict(code=_CODES[one.status], reason=one.reason, message=one.message, event=one.event)
            for one in verdicts
        ]
    ).SerializeToString()


def verdicts_from_bytes(data: bytes) -> list[Verdict]:
    """Return the verdicts of an ObserveResponse; of a reason that is unknown here only counts whether to try again.

    Raises
    ------
    UpstreamError
        `bad_answer` when it cannot be read.
    """
    try:
        response = parsed(pb.ObserveResponse, data)
    except InputError as error:
        raise UpstreamError("bad_answer", str(error)) from error
    verdicts = []
    for one in response.verdicts:
        known = one.reason in REFUSALS or not one.code
        reason = one.reason if known else "store" if one.code in _TRY_AGAIN else "key"
        verdicts.append(Verdict(reason, one.message, one.event))
    return verdicts


def answer_to_proto(answer: Answer, nodes: Sequence[str]) -> pb.Answer:
    """Return an answer as a message, its nodes by name."""
    return pb.Answer(
        sequence=answer.sequence,
        event=answer.event,
        zone=answer.zone,
        revision=answer.revision,
        cause=answer.cause,
        posterior=answer.posterior.astype("<f4").tobytes(),
        label=answer.label,
        score=answer.score,
        conflict=answer.conflict,
        reported=[nodes[place] for place in answer.reported],
        used=[nodes[place] for place in answer.used],
        action=answer.action,
        tier=answer.tier,
        reason=answer.reason,
        opened_us=round(answer.opened_s * 1e6),
        closed_us=round(answer.closed_s * 1e6),
    )


def event_to_proto(event: Event, nodes: Sequence[str]) -> pb.Event:
    """Return an event as a message."""
    return pb.Event(
        event=event.key,
        state=State(event.state).name.lower(),
        reported=[nodes[place] for place in event.places()],
        answer=None if event.answer is None else answer_to_proto(event.answer, nodes),
    )


def node_to_proto(node: NodeStatus) -> pb.Node:
    """Return a node's status as a message."""
    return pb.Node(
        name=node.name,
        weight=node.weight,
        reason=node.reason,
        detail=node.detail,
        reliability=node.reliability,
        skew_ms=node.skew_s * 1e3,
        last_seen_us=round(node.last_seen_s * 1e6),
        accepted=node.accepted,
        refused=node.refused,
    )


def _floats(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data if len(data) % 4 == 0 else b"", "<f4")
