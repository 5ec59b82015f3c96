"""Three tiers as processes, and what their callers see when one is killed, freezes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from escalade.tiers import Answer, Client
from escalade.tiers.testing.onnx_models import scaled_identity
from escalade.tiers.testing.processes import TierProcess

pytestmark = [pytest.mark.asyncio, pytest.mark.alone]

TIERS = ("endpoint", "edge_node", "edge_server")
SCALES = {"endpoint": 1.0, "edge_node": 3.0, "edge_server": 10.0}
DEADLINE_S = 1.0
RECOVERY_S = 20.0

# Logits are the inputs times the tier's scale: so sure is only the tier of that name, or one above it.
ROW = {
    "endpoint": np.array([[9, 0, 0, 0]], np.float32),
    "edge_node": np.array([[0, 1.2, 0, 0]], np.float32),
    "edge_server": np.array([[0, 0, 0.5, 0]], np.float32),
}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TierProcess]]:
    """Edge server, edge node and endpoint; each tier keeps 100 ms of a deadline for its own answer."""
    folder, above = tmp_path_factory.mktemp("cascade"), ""
    with ExitStack() as stack:
        running: dict[str, TierProcess] = {}
        for tier in reversed(TIERS):
            file = folder / f"{tier}.onnx"
            file.write_bytes(scaled_identity(4, SCALES[tier]))
            config: dict[str, Any] = {"tier": tier, "model": {"file": str(file), "name": "m"}}
            if above:
                config["policy"] = {"name": "Threshold", "threshold": 0.9}
                config["upstream"] = {"address": above, "reserve_ms": 100}
            running[tier] = stack.enter_context(TierProcess(config, folder))
            above = running[tier].address
        yield running


class Cascade:
    """The three processes and a caller of the endpoint."""

    def __init__(self, processes: dict[str, TierProcess], client: Client) -> None:
        self.processes, self.client = processes, client

    async def ask(self, row: str = "edge_server") -> Answer:
        """Return the answer to the row that only the named tier, or one above it, is sure of.

        It comes by the deadline: gRPC ends a call that has no answer by then, and the test fails.
        """
        started = time.monotonic()
        answer = await self.client.infer(ROW[row], model="m", timeout_s=DEADLINE_S)
        assert time.monotonic() - started < DEADLINE_S + 0.5
        assert answer.label is not None
        assert answer.label.tolist() == [TIERS.index(row)]
        return answer

    async def ask_until(self, tier: str) -> list[Answer]:
        """Ask until an answer comes from `tier` undegraded, at most `RECOVERY_S`; return all answers."""
        answers: list[Answer] = []
        async with asyncio.timeout(RECOVERY_S):
            while not answers or answers[-1].tier != [tier] or answers[-1].degraded.any():
                answers.append(await self.ask())
        return answers


@pytest_asyncio.fixture
async def cascade(processes: dict[str, TierProcess]) -> AsyncIterator[Cascade]:
    """A whole cascade: what the last test killed or froze is back and reached."""
    for process in processes.values():
        if not process.running:
            process.start()
        process.thaw()
    async with Client(processes["endpoint"].address) as client:
        cascade = Cascade(processes, client)
        await cascade.ask_until("edge_server")
        yield cascade


@pytest.mark.parametrize("tier", TIERS)
async def test_each_input_ends_at_the_lowest_tier_that_is_sure_of_it(cascade: Cascade, tier: str) -> None:
    """Certain inputs stay below, uncertain ones climb; the path tells the hops, each inside the one before."""
    answer = await cascade.ask(tier)
    assert answer.tier == [tier]
    assert not answer.degraded.any()
    assert answer.score[0] >= 0.9
    assert [hop.tier for hop in answer.path] == list(TIERS[: TIERS.index(tier) + 1])
    elapsed = [hop.elapsed_ms for hop in answer.path]
    assert elapsed == sorted(elapsed, reverse=True)


async def test_rows_of_one_request_end_at_different_tiers(cascade: Cascade) -> None:
    """Each row has its own tier; nothing is lost or swapped."""
    x = np.concatenate([ROW[tier] for tier in reversed(TIERS)])
    answer = await cascade.client.infer(x, model="m", timeout_s=DEADLINE_S)
    assert answer.tier == list(reversed(TIERS))
    assert answer.label is not None
    assert answer.label.tolist() == [2, 1, 0]


async def test_a_killed_edge_server_costs_no_request_and_is_found_again(cascade: Cascade) -> None:
    """Killed amid traffic: every request is answered in time, degraded with its reason, by the edge node.

    Started again on the same port it answers again, without anything below being touched.
    """
    server, killed = cascade.processes["edge_server"], asyncio.Event()
    before: list[Answer] = []
    after: list[Answer] = []

    async def caller() -> None:
        """One that sends the next request when it has its answer."""
        while len(after) < 40:
            answer = await cascade.ask()
            (after if answer.degraded.any() else before).append(answer)
            if len(before) >= 40:
                killed.set()

    callers = [asyncio.create_task(caller()) for _ in range(4)]
    await killed.wait()
    await asyncio.to_thread(server.kill)
    async with asyncio.timeout(RECOVERY_S):
        await asyncio.gather(*callers)

    assert {answer.tier[0] for answer in before} == {"edge_server"}
    assert {answer.tier[0] for answer in after} == {"edge_node"}
    assert {answer.reason for answer in after} <= {"unavailable", "timeout", "circuit_open"}
    assert (await cascade.ask("edge_node")).degraded.tolist() == [False]

    await asyncio.to_thread(server.start)
    recovered = (await cascade.ask_until("edge_server"))[-1]
    assert recovered.reason == ""
    assert [hop.tier for hop in recovered.path] == list(TIERS)


async def test_a_frozen_edge_server_costs_no_request_either(cascade: Cascade) -> None:
    """A peer that accepts and never answers: the edge node answers before the deadline, and says timeout."""
    server = cascade.processes["edge_server"]
    server.freeze()
    answers = await asyncio.gather(*(cascade.ask() for _ in range(8)))
    assert {answer.tier[0] for answer in answers} == {"edge_node"}
    assert all(answer.degraded.all() for answer in answers)
    assert {answer.reason for answer in answers} == {"timeout"}
    assert (await cascade.ask("endpoint")).path[0].elapsed_ms < DEADLINE_S * 1e3 / 2
    patient = await asyncio.gather(*(cascade.ask() for _ in range(8)))
    assert "circuit_open" in {answer.reason for answer in patient}
    server.thaw()
    await cascade.ask_until("edge_server")


async def test_without_its_edge_node_an_endpoint_answers_by_itself(cascade: Cascade) -> None:
    """What it is sure of as before, the rest degraded, until the edge node is back."""
    node = cascade.processes["edge_node"]
    await asyncio.to_thread(node.kill)
    sure, unsure = await cascade.ask("endpoint"), [await cascade.ask() for _ in range(10)]
    assert (sure.tier, sure.reason) == (["endpoint"], "")
    assert {answer.tier[0] for answer in unsure} == {"endpoint"}
    reasons = [answer.reason for answer in unsure]
    assert reasons[:5] == ["unavailable"] * 5
    assert set(reasons[5:]) <= {"unavailable", "circuit_open"}
    assert all([hop.tier for hop in answer.path] == ["endpoint"] for answer in unsure)
    await asyncio.to_thread(node.start)
    await cascade.ask_until("edge_server")


async def test_a_node_and_a_server_that_die_together_are_both_found_again(cascade: Cascade) -> None:
    """The node first, then the server: answers climb one tier at a time."""
    node, server = cascade.processes["edge_node"], cascade.processes["edge_server"]
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(node.kill)
    assert (await cascade.ask()).tier == ["endpoint"]
    await asyncio.to_thread(node.start)
    async with asyncio.timeout(RECOVERY_S):
        while (answer := await cascade.ask()).tier != ["edge_node"]:
            assert answer.degraded.all()
    assert answer.degraded.all()
    await asyncio.to_thread(server.start)
    await cascade.ask_until("edge_server")
