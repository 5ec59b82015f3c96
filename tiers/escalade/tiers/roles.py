"""Who may call what, and for whom: the one table. What does not stand in it is refused.

A caller's role is what its certificate says (see `identity`). `OWN` means: for itself alone. An endpoint that
names no device is taken to speak for itself, and one that names another is refused. `ANY` means: for every
device; an edge node passes on what devices below it ask, and tells the tier above their names.

| role | who it is |
|---|---|
| `endpoint` | a device: asks about its own inputs, hears of its own corrections |
| `edge-node` | stands above devices and speaks for them; reports its own observations of events |
| `edge-server` | the top, where it asks another one |
| `operator` | a person or a tool that runs the fleet |
| `viewer` | a person or a dashboard that looks, and changes nothing |
"""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["endpoint", "edge-node", "edge-server", "operator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)

Scope = Literal["own", "any"]
OWN: Scope = "own"
ANY: Scope = "any"

_OIP = "/inference.GRPCInferenceService"
_TIER = "/escalade.protos.v1.Tier"
_AGGREGATOR = "/escalade.protos.v1.Aggregator"
_ENROLMENT = "/escalade.protos.v1.Enrolment"
_HEALTH = "/grpc.health.v1.Health"
INFER, DELIVER, OBSERVE = f"{_OIP}/ModelInfer", f"{_TIER}/Deliver", f"{_AGGREGATOR}/Observe"
"""What a tier itself asks of others."""

EVERYONE: dict[Role, Scope] = dict.fromkeys(ROLES, ANY)
ASKING: dict[Role, Scope] = {"endpoint": OWN, "edge-node": ANY, "edge-server": ANY, "operator": OWN}
LOOKING: dict[Role, Scope] = {"operator": ANY, "viewer": ANY}

TABLE: dict[str, dict[Role, Scope]] = {
    # Is it there, and what does it serve: no secret among those who belong.
    f"{_OIP}/ServerLive": EVERYONE,
    f"{_OIP}/ServerReady": EVERYONE,
    f"{_OIP}/ModelReady": EVERYONE,
    f"{_OIP}/ServerMetadata": EVERYONE,
    f"{_OIP}/ModelMetadata": EVERYONE,
    f"{_HEALTH}/Check": EVERYONE,
    f"{_HEALTH}/Watch": EVERYONE,
    # Inputs and what is answered to them.
    INFER: ASKING,
    f"{_OIP}/ModelStreamInfer": ASKING,
    f"{_TIER}/WatchCorrections": {"endpoint": OWN, "edge-node": OWN, "operator": ANY},
    # Reports from outboxes below.
    DELIVER: {"endpoint": OWN, "edge-node": ANY, "edge-server": ANY},
    f"{_TIER}/WatchReports": LOOKING,
    # Several nodes' views of one event. GetEvent may teach the true label, so it is no viewer's.
    OBSERVE: {"endpoint": OWN, "edge-node": OWN},
    f"{_AGGREGATOR}/ObserveStream": {"endpoint": OWN, "edge-node": OWN},
    f"{_AGGREGATOR}/WatchEvents": {"edge-server": ANY, "operator": ANY, "viewer": ANY},
    f"{_AGGREGATOR}/GetEvent": {"edge-server": ANY, "operator": ANY},
    f"{_AGGREGATOR}/ListNodes": LOOKING,
    # How a tier fares, and what it offers.
    f"{_TIER}/GetStatus": LOOKING,
    # Deletes what is kept of a device.
    f"{_TIER}/Forget": {"operator": ANY},
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": LOOKING,
    # Not served by tiers: `escalade pki serve` answers it on a port of its own, to whoever holds a token.
    f"{_ENROLMENT}/Enrol": {},
}


def scope_of(method: str, role: Role) -> Scope | None:
    """Return for whom a role may call a method (`/package.Service/Method`); None: not at all."""
    return TABLE.get(method, {}).get(role)
