"""`escalade egress`: what may go up from a tier, and what went."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from escalade.cli.config import may_leave
from escalade.tiers.config_file import load_config
from escalade.tiers.egress_ledger import read_ledger
from escalade.tiers.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from pathlib import Path


def show(file: Path, *, as_json: bool) -> int:
    """Print what may leave the tier of a YAML, and what its ledger counts: of a running one, up to a second ago.

    Raises
    ------
    SetupError
        The tier keeps no ledger, or it cannot be read.
    """
    config = load_config(file)
    if config.egress_ledger is None:
        raise ConfigError("there is no ledger; add `egress_ledger: {file: ...}`", key="egress_ledger", source=str(file))
    ledger = config.egress_ledger.file
    try:
        since_s, lines = read_ledger(ledger)
    except FileNotFoundError:
        since_s, lines = time.time(), []
    except (OSError, ValueError) as error:
        raise SetupError(f"{ledger}: {error}") from error
    if as_json:
        for line in lines:
            print(json.dumps({"class": line.data, **{k: v for k, v in line._asdict().items() if k != "data"}}))
        return 0
    for allowed in may_leave(config):
        print(allowed)
    total = sum(line.bytes for line in lines)
    print(f"sent since {time.strftime('%Y-%m-%d %H:%M', time.localtime(since_s))}: {total} bytes")
    if lines:
        print(f"\n{'class':9}  {'destination':28}  {'device':20}  {'messages':>9}  {'bytes':>12}")
    for data, destination, device, messages, size in lines:
        print(f"{data:9}  {destination:28.80}  {f'{device!a}'[1:-1]:20.60}  {messages:>9}  {size:>12}")
    return 0
