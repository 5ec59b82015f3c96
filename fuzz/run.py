"""Fuzz one decoder with atheris, from the corpus on: `python -m fuzz.run request -max_total_time=60`.

What it finds is written to `runs/fuzz/TARGET-crash-...`; inputs that reach further are kept in `runs/fuzz/TARGET`.
"""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Run; the further arguments are libFuzzer's."""
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing needs atheris: pip install 'escalade[fuzz]'")
    with atheris.instrument_imports(include=["escalade", "fuzz"]):
        from fuzz.targets import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name a target: {', '.join(TARGETS)}")
    name = sys.argv.pop(1)
    kept = Path("runs/fuzz") / name
    kept.mkdir(parents=True, exist_ok=True)
    found = f"-artifact_prefix={kept.parent}/{name}-"
    atheris.Setup([*sys.argv, found, str(kept), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
