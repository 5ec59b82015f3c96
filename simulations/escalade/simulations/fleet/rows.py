"""The columns of the engine's matrices of requests, all int64."""

from __future__ import annotations

from enum import IntEnum

FAR = 1 << 62
"""A time that never comes, ns."""


class Local(IntEnum):
    """A request at its endpoint: int64 ``[LOCAL, n]``, a column each, since most end there."""

    RID = 0  #: number of the arrival in its cell
    T = 1  #: arrival
    DEVICE = 2  #: of the cell
    ROW = 3  #: of the endpoints' score table
    SERVICE = 4  #: time of the inference
    END = 5  #: when it ends


LOCAL = len(Local)


class State(IntEnum):
    """What changes with every request of an endpoint, in one line of the processor's cache: columns of int64.

    There are as many as the scenario needs: `FREE`, those before `ANSWERED`, or all.
    """

    FREE = 0  #: when its processor is, ns
    CHARGE = 1  #: of the battery, pJ
    SINCE = 2  #: when that was left, ns; or `DEAD`, `NO_BATTERY`
    LEAVES = 3  #: no period of absence begins or lasts before, ns
    ANSWERED = 4  #: answers at once that telemetry has not been told of
    IN_TIME = 5  #: those of them
    ESCALATED = 6


STATE = 8
BATTERIES_AND_CHURN = int(State.ANSWERED)
DEAD, NO_BATTERY = -1, -2


class Up(IntEnum):
    """A message on its way up: int64 ``[n, UP]``, a row each, since rows are sorted and picked."""

    RID = 0
    T = 1  #: arrival at the endpoint
    DEVICE = 2  #: of the cell
    CELL = 3
    ROW_0 = 4  #: of the endpoints' score table
    SENT_0 = 5  #: by the endpoint
    LIMIT_0 = 6  #: then the endpoint answers itself
    NODE = 7  #: of the cell
    AT = 8  #: arrival at the tier it goes to
    END = 9  #: of that tier's inference
    ROW_1 = 10  #: of the edge nodes' score table
    SENT_1 = 11  #: by the edge node
    LIMIT_1 = 12  #: then the edge node answers itself
    FLAGS = 13
    STATUS = 14  #: what became of it at a link or a tier
    PROPENSITY_0 = 15  #: a float64's bits, as the next
    PROPENSITY_1 = 16
    KIND = 17  #: class of the endpoint
    SIZE = 18  #: bytes
    NUMBER = 19  #: of the device in the fleet
    ROW_2 = 20  #: of the servers' score table
    FLEET_NODE = 21  #: the node's number in the fleet


UP = len(Up)

ANSWERED_0 = 1
"""Flag: the endpoint has answered for good; what still comes is a correction."""
ANSWERED_1 = 2
"""Flag: so has the edge node."""
OPEN = 4
"""Flag: its breaker did not let it be sent when it was wanted."""
UNREACHED = 8
"""Flag: its link was down when it was wanted, and the breaker noticed."""


class Status(IntEnum):
    """What became of a message at a link or at a tier."""

    DONE = 0  #: arrived, or inferred
    WAITING = 1  #: not yet begun at the end of the window
    REFUSED = 2  #: no room
    DOWN = 3  #: the tier is down
    EXPIRED = 4  #: no worker was free before its limit
    EVICTED = 5  #: from the sender's buffer, at END
    LOST = 6  #: every transmission


class Ended(IntEnum):
    """How a request ended, or was corrected later: int64 ``[n, ENDED]``, a row each."""

    CELL = 0
    RID = 1
    T = 2
    DEVICE = 3  #: of the fleet
    KIND = 4  #: class of the endpoint
    TIER = 5  #: that answered; -1 for none
    REASON = 6  #: or `CORRECTED`
    AT = 7  #: when the answer was there
    ROW = 8  #: of the answering tier's score table; then 1 or 0, whether it is right
    ASKED = 9  #: when the endpoint asked above; -1 where it did not


ENDED = len(Ended)
CORRECTED = 15
"""In the place of a reason: a better answer than the one given came."""


class Outcome(IntEnum):
    """What a policy's telemetry counts."""

    LEVEL = 0  #: of the tier whose policy it is for
    UNIT = 1  #: device of the fleet
    KNOWN = 2  #: when
    IN_TIME = 3
    ANSWERED = 4
    ESCALATED = 5
    NODE = 6  #: of the fleet, whose policy it is; only of edge nodes


OUTCOME = len(Outcome)


class Fed(IntEnum):
    """What came of a decision, for policies that learn: int64 ``[n, FED]``, a row each."""

    LEVEL = 0  #: of the tier that decided
    KNOWN = 1  #: when
    CELL = 2
    RID = 3
    DEVICE = 4  #: of the fleet
    ROW = 5  #: of the deciding tier's score table
    ACTION = 6
    PROPENSITY = 7  #: a float64's bits
    T = 8  #: of the decision
    UPPER = 9  #: tier that answered above; -1 for none
    UPPER_ROW = 10  #: of its score table
    TOOK = 11  #: time that asking took; -1 where it was not answered
    NODE = 12  #: of the fleet, that decided; -1 for an endpoint


FED = len(Fed)


class Seen(IntEnum):
    """One view of a fused event on its way to the aggregator: int64 ``[n, SEEN]``, a row each."""

    CELL = 0
    EVENT = 1  #: number in its cell
    VIEW = 2  #: place of the node in its group
    GROUP = 3  #: number in the fleet of the group's first node
    T = 4  #: of the event
    AT = 5  #: arrival at the aggregator; `FAR` for one that never comes


SEEN = len(Seen)
