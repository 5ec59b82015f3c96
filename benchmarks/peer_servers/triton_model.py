"""The model, as a user of Triton's Python backend writes it: one run for all requests of a batch."""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # Triton's own, there only inside it

from benchmarks.peer_servers.common import open_session


class TritonPythonModel:
    """One session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the file that the configuration names."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.session = open_session(parameters["file"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that the dynamic batcher put together."""
        rows = [triton.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        logits = self.session.run(["logits"], {"input": rows[0] if len(rows) == 1 else np.concatenate(rows)})[0]
        ends = np.cumsum([len(x) for x in rows])[:-1]
        parts = [logits] if len(rows) == 1 else np.split(logits, ends)
        return [triton.InferenceResponse([triton.Tensor("logits", part)]) for part in parts]
