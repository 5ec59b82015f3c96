"""The aggregator: window, rule, policy and journal, tied together on one event loop.

The way of an observation: the window says which event it belongs to and what that changes; events that are
closed are fused, decided on, perhaps given to the edge server's own model; observations and answers go to
the journal; verdicts and answers leave when they are on the disk.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from escalade.policies import Action
from escalade.policies.fusion import MeanProbability
from escalade.tiers.aggregator.answers import AnswerLog
from escalade.tiers.aggregator.deciding import NAME, Decided, Decider
from escalade.tiers.aggregator.event import Answer, Event, State
from escalade.tiers.aggregator.fusing import Fusing, arrays
from escalade.tiers.aggregator.journal import Journal
from escalade.tiers.aggregator.metrics import AggregatorMetrics
from escalade.tiers.aggregator.nodes import NodeStatus, node_statuses
from escalade.tiers.aggregator.observation import Observation, Verdict
from escalade.tiers.aggregator.restoring import restore
from escalade.tiers.aggregator.store import Final, Learnt
from escalade.tiers.aggregator.window import Changes, Window
from escalade.tiers.errors import InputError, NotFoundError
from escalade.tiers.outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from escalade.policies import Policy, Score
    from escalade.policies.fusion import Fused
    from escalade.tiers.aggregator.checks import Checks
    from escalade.tiers.aggregator.config import AggregatorConfig
    from escalade.tiers.aggregator.journal import Operation
    from escalade.tiers.aggregator.store import Store
    from escalade.tiers.record import Recorder
    from escalade.tiers.tier import Tier

log = structlog.get_logger(__name__)

LEARNT_EVERY_S = 1.0
"""What was learnt goes to the disk this often, and on a clean stop: so much may be learnt again after a crash."""


class Aggregator:
    """Gathers, answers and remembers events. All methods belong to one event loop.

    Parameters
    ----------
    checks, fusing, store:
        See there. The store is closed with the aggregator.
    policy, score, recorder:
        As a tier has them; score None: 1 - conflict.
    tier:
        The edge server's own, for what is escalated.
    clock, wall:
        Monotonic seconds, and the time of day at the start.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        classes: int,
        checks: Checks,
        fusing: Fusing,
        store: Store,
        policy: Policy,
        score: Score | None,
        *,
        tier: Tier | None = None,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.config, self.classes, self._clock, self._recorder = config, classes, clock, recorder
        self._epoch = wall() - clock()  # nodes and policies see the time of day, but never a jump of it
        self.metrics = AggregatorMetrics()
        self._fusing = fusing
        self.window = Window(config, classes, checks, fusing)
        fusing.failed = self._rule_failed
        self._decider = Decider(
            policy,
            score,
            tier,
            escalate_s=config.escalate_ms / 1e3,
            failed=self._policy_failed,
            uniform=uniform,
            recorder=recorder,
            clock=clock,
        )
        self.answers = AnswerLog(config.max_kept, restore(self.window, fusing, store, self.now()))
        self._last_sequence = self.answers.last
        self._journal = Journal(store, written=self._written, commit_s=self.metrics.commit_s.observe)
        self._timer: tuple[float, asyncio.TimerHandle] | None = None
        self._learning: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._needed: dict[int, float] = {}
        """When the last needed observation of an answer that is not on the disk yet arrived, by sequence."""
        metrics = self.metrics
        metrics.nodes, metrics.strangers = self.nodes, lambda: self.window.strangers
        metrics.gauges = {
            "open_events": lambda: self.window.open,
            "live_events": lambda: len(self.window),
            "watchers": lambda: self.answers.watchers,
            "backlog": lambda: self._journal.backlog,
        }

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._epoch + self._clock()

    def start(self) -> None:
        """Begin to keep deadlines: also of the events that an earlier run left open."""
        self._learning = asyncio.get_running_loop().create_task(self._keep_what_is_learnt())
        self._wait_for_next()

    async def observe(
        self, observations: Sequence[Observation], tenant: str = "", sent_s: float | None = None
    ) -> list[Verdict]:
        """Take a batch in; return a verdict for each when those that were accepted are on the disk."""
        if self._journal.full:
            return [self._unkept(one) for one in observations]
        changes = self.window.observe(observations, tenant, sent_s, self.now())
        self._apply(changes)
        try:
            await self._journal.all_written()
        except OutboxError:
            # A repeat may be of one that is not on the disk either.
            kept = [verdict.reason not in ("", "duplicate", "repeated") for verdict in changes.verdicts]
            pairs = zip(observations, changes.verdicts, kept, strict=True)
            return [verdict if ok else self._unkept(one) for one, verdict, ok in pairs]
        return changes.verdicts

    def watch(self, after: int | None) -> AsyncIterator[Answer]:
        """Yield answers from a number on; None: from now on. See `AnswerLog.watch`."""
        return self.answers.watch(self.answers.last if after is None else after)

    def event(self, key: str, label: int | None = None) -> Event:
        """Return an event, told the truth about it if there is a label.

        Raises
        ------
        NotFoundError, InputError
            It is not known, or not any more; the label is none of the classes.
        """
        event = self.window.find(key)
        if event is None:
            raise NotFoundError(f"there is no event {key[:200]!r}, or not any more")
        if label is not None:
            if not 0 <= label < self.classes:
                raise InputError(f"label {label} is none of {self.classes} classes")
            new, event.label = event.label < 0, label
            if new and event.learnt and event.present.any():
                self._fusing.learn_label(event)
        return event

    def nodes(self) -> list[NodeStatus]:
        """Return how every node is."""
        return node_statuses(self.window, self._fusing)

    def tick(self) -> None:
        """Close and forget what is due; a timer calls it when something is."""
        self._apply(self.window.tick(self.now()))

    async def flush(self) -> None:
        """Return when what was decided so far is on the disk; OutboxError when that cannot be."""
        while self._asking:
            await asyncio.gather(*self._asking, return_exceptions=True)
        await self._journal.all_written()

    async def forget(self, node: str) -> str:
        """Delete what is kept of a node, and say what; of open events its part goes as they become final.

        Raises
        ------
        OutboxError
            It cannot be deleted now.
        """
        await self.flush()
        return await self._journal.forget(node)

    async def close(self) -> None:
        """Finish what is under way, keep what was learnt, close the store. Open events stay open on the disk."""
        if self._timer is not None:
            self._timer[1].cancel()
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        while self._asking:
            await asyncio.gather(*self._asking, return_exceptions=True)
        self._journal.put([Learnt(self._learnt())])
        await self._journal.close()
        self.answers.close()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def _apply(self, changes: Changes) -> None:
        """Fuse, decide, learn, and hand what is to be kept to the journal."""
        now = self.now()
        operations: list[Operation] = [*changes.accepted]
        if changes.closed:
            fused = self._fuse([event for event, _ in changes.closed])
            for row, (event, cause) in enumerate(changes.closed):
                self._decide(event, cause, fused, row, now, operations)
        # What the edge server's model answered stands; what it is still asked is not asked twice.
        late = [event for event in changes.late if event.answer is not None and event.answer.tier == NAME]
        if late:
            fused = self._fuse(late)
            for row, event in enumerate(late):
                label = int(fused.posterior[row].argmax()) if fused.used[row].any() else -1
                if event.answer is not None and label != event.answer.label and not _abstained(event.answer):
                    self._decide(event, "late", fused, row, now, operations)
        operations += [Final(event.key) for event in changes.final if event.answer is not None]
        if changes.learn:
            self._fusing.learn(changes.learn)
        if operations:
            self._journal.put(operations)
        self._wait_for_next()

    def _fuse(self, events: list[Event]) -> Fused:
        try:
            return self._fusing.fuse(events)
        except Exception as error:  # noqa: BLE001  # a user's rule may raise anything and must not stop the aggregator
            self._rule_failed(error)
            return MeanProbability().fuse(*arrays(events))

    def _decide(
        self, event: Event, cause: str, fused: Fused, row: int, now: float, operations: list[Operation]
    ) -> None:
        decided = self._decider.decide(
            event, cause, fused.posterior[row], float(fused.conflict[row]), fused.used[row], now
        )
        event.revision += 1
        event.guess = decided.guess
        if decided.asks:
            self.metrics.escalated += 1
            task = asyncio.get_running_loop().create_task(self._ask(event, decided))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        else:
            operations += self._answered(event, self._decider.finished(decided))

    async def _ask(self, event: Event, decided: Decided) -> None:
        answer = await self._decider.ask(event, decided)
        operations = self._answered(event, answer._replace(closed_s=self.now()))
        if event.state is State.FINAL:  # it became so while the model was asked
            operations.append(Final(event.key))
        self._journal.put(operations)

    def _answered(self, event: Event, answer: Answer) -> list[Operation]:
        """Number an answer; watchers see it when it is on the disk."""
        self._last_sequence += 1
        event.answer = answer = answer._replace(sequence=self._last_sequence)
        self.metrics.answers[answer.cause] += 1
        if answer.reason:
            self.metrics.degraded[answer.reason] += 1
        if answer.cause != "late":
            self.metrics.wait_s.observe(answer.closed_s - answer.opened_s)
        self._needed[answer.sequence] = answer.closed_s
        return [answer]

    def _written(self, group: list[Operation]) -> None:
        answers = [one for one in group if isinstance(one, Answer)]
        now = self.now()
        for answer in answers:
            self.metrics.close_s.observe(now - self._needed.pop(answer.sequence))
        self.answers.publish(answers)

    def _wait_for_next(self) -> None:
        """Have `tick` called when the window has something to do."""
        due_s = self.window.next_due_s()
        if self._timer is not None:
            if self._timer[0] == due_s:
                return
            self._timer[1].cancel()
            self._timer = None
        if due_s is not None:
            handle = asyncio.get_running_loop().call_later(max(0.0, due_s - self.now()), self._on_timer)
            self._timer = (due_s, handle)

    def _on_timer(self) -> None:
        self._timer = None
        self.tick()

    async def _keep_what_is_learnt(self) -> None:
        while True:
            await asyncio.sleep(LEARNT_EVERY_S)
            if self._fusing.changed and not self._journal.trouble:
                self._journal.put([Learnt(self._learnt())])

    def _learnt(self) -> dict[str, object]:
        counts = {str(place): dict(count) for place, count in enumerate(self.window.counts)}
        facts = {"nodes": "\n".join(self.config.nodes), "classes": self.classes, "rule": repr(self._fusing.rule)}
        return {**facts, "counts": counts, "fusing": self._fusing.state_dict()}

    def _unkept(self, observation: Observation) -> Verdict:
        return Verdict("store", f"not kept: {self._journal.trouble}", observation.event)

    def _rule_failed(self, error: Exception) -> None:
        self.metrics.rule_errors += 1
        _say_now_and_then("fusion rule failed", error, self.metrics.rule_errors)

    def _policy_failed(self, error: Exception) -> Action:
        self.metrics.policy_errors += 1
        _say_now_and_then("policy failed", error, self.metrics.policy_errors)
        return Action.ESCALATE


def _abstained(answer: Answer) -> bool:
    return answer.action == "abstain"


def _say_now_and_then(what: str, error: Exception, count: int) -> None:
    if count & (count - 1) == 0:
        log.error(what, error=repr(error), errors_so_far=count)
