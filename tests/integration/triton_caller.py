"""What a user of tritonclient does, as a script: asks three tiers and prints what they said as JSON.

Usage: ``triton_caller.py ORDER ENDPOINT EDGE_NODE EDGE_SERVER``. ORDER says what else the process imports:
``alone`` (no escalade), ``triton-first`` or ``escalade-first``.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np

ORDER, *ADDRESSES = sys.argv[1:]
if ORDER == "escalade-first":
    import escalade.tiers
import tritonclient.grpc as triton  # noqa: E402  # the order is what is tested

if ORDER == "triton-first":
    import escalade.tiers

# One row that each tier of the test's cascade is sure of: see `test_tritonclient`.
ROWS = np.array([[9, 0, 0, 0], [0, 1.2, 0, 0], [0, 0, 0.5, 0]], np.float32)


def tensor(x: np.ndarray[Any, Any], name: str = "input", datatype: str = "FP32") -> triton.InferInput:
    """Return an input, its contents raw as tritonclient always sends them."""
    made = triton.InferInput(name, list(x.shape), datatype)
    made.set_data_from_numpy(x)
    return made


def infer(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Ask for everything."""
    result = client.infer("m", [tensor(ROWS)], request_id="7", client_timeout=10)
    response = result.get_response()
    facts = response.parameters
    return {
        "id": response.id,
        "model": [response.model_name, response.model_version],
        "label": result.as_numpy("label").tolist(),
        "posterior": result.as_numpy("posterior").astype(float).round(4).tolist(),
        "score": result.as_numpy("score").astype(float).round(4).tolist(),
        "tier": [name.decode() for name in result.as_numpy("tier").tolist()],
        "degraded": result.as_numpy("degraded").tolist(),
        "escalade.tier": facts["escalade.tier"].string_param,
        "escalade.score": float(facts["escalade.score"].string_param),
        "escalade.degraded": facts["escalade.degraded"].bool_param,
        "escalade.path": facts["escalade.path"].string_param,
    }


def requested(client: triton.InferenceServerClient) -> list[str]:
    """Ask for some outputs; return the names that came."""
    wanted = [triton.InferRequestedOutput("score"), triton.InferRequestedOutput("label")]
    result = client.infer("m", [tensor(ROWS[:1])], outputs=wanted, client_timeout=10)
    return [output.name for output in result.get_response().outputs]


def refusals(client: triton.InferenceServerClient) -> dict[str, list[str]]:
    """Ask for what cannot be; return status and text of each exception."""
    wrong = {
        "model": ("other", [tensor(ROWS)]),
        "shape": ("m", [tensor(ROWS[:, :3].copy())]),
        "datatype": ("m", [tensor(ROWS.astype(np.float64), datatype="FP64")]),
        "name": ("m", [tensor(ROWS, name="pixels")]),
    }
    said = {}
    for case, (model, inputs) in wrong.items():
        try:
            client.infer(model, inputs, client_timeout=10)
        except triton.InferenceServerException as error:
            said[case] = [error.status(), error.message()]
    return said


def described(client: triton.InferenceServerClient) -> dict[str, Any]:
    """Ask what the server is."""
    model = client.get_model_metadata("m", as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("m"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "inputs": [[one["name"], one["datatype"], one["shape"]] for one in model["inputs"]],
        "outputs": {one["name"]: one["datatype"] for one in model["outputs"]},
    }


def streamed(client: triton.InferenceServerClient) -> dict[str, str]:
    """Send several requests on one stream, one of them wrong; return id to label or to the error."""
    replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(callback=lambda result, error: replies.put((result, error)))
    for index in range(20):
        client.async_stream_infer("m", [tensor(ROWS[index % 3 : index % 3 + 1])], request_id=str(index))
    client.async_stream_infer("other", [tensor(ROWS)], request_id="wrong")
    got = {}
    for _ in range(21):
        result, error = replies.get(timeout=10)
        if error is not None:
            got["wrong"] = error.message()
        else:
            got[result.get_response().id] = str(result.as_numpy("label")[0])
    client.stop_stream()
    return got


def asynchronous(client: triton.InferenceServerClient) -> list[int]:
    """Ask without waiting, the answer by callback."""
    replies: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.async_infer("m", [tensor(ROWS)], callback=lambda result, error: replies.put((result, error)))
    result, error = replies.get(timeout=10)
    assert error is None, error
    labels: list[int] = result.as_numpy("label").tolist()
    return labels


async def escalade_client(address: str) -> list[int]:
    """Ask with escalade's own client, in the same process."""
    async with escalade.tiers.Client(address) as client:
        answer = await client.infer(ROWS, model="m", timeout_s=10)
    assert answer.label is not None
    labels: list[int] = answer.label.tolist()
    return labels


def main() -> None:
    """Ask each address everything and print one JSON object a tier."""
    for address in ADDRESSES:
        with triton.InferenceServerClient(address) as client:
            told = {
                "infer": infer(client),
                "requested": requested(client),
                "refusals": refusals(client),
                "described": described(client),
                "streamed": streamed(client),
                "asynchronous": asynchronous(client),
            }
        if ORDER != "alone":
            told["escalade_client"] = asyncio.run(escalade_client(address))
        print(json.dumps(told))


if __name__ == "__main__":
    main()
