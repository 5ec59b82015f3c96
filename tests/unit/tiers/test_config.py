from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from escalade.tiers.config import TierConfig
from escalade.tiers.config_file import load_config, show_config
from escalade.tiers.errors import ConfigError
from escalade.tiers.paths import check_usable

GOOD = """\
tier: endpoint
model:
  file: model.onnx
  input:
    shape: [8, 8]
    dtype: UINT8
    steps:
      - mean_pool: 2
      - flatten: true
policy: {name: Threshold, threshold: 0.8}
upstream:
  address: 127.0.0.1:8002
limits:
  max_queue: 10
"""
WITH_FALLBACKS = f"""\
{GOOD}fallbacks:
  - address: 127.0.0.1:8003
  - {{address: 127.0.0.1:8004, only: critical, probe_ms: 10000}}
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    path = tmp_path / "tier.yaml"
    path.write_text(GOOD)
    return path


def failure(path: Path, text: str, environment: dict[str, str] | None = None) -> ConfigError:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment or {})
    assert "\n" not in str(caught.value)
    return caught.value


def test_paths_are_relative_to_the_file(write: Path) -> None:
    """A model beside its YAML is found from any working directory."""
    assert load_config(write, {}).model.file == write.parent / "model.onnx"


@pytest.mark.parametrize(
    ("change", "line", "key", "says"),
    [
        (("max_queue: 10", "max_que: 10"), 14, "limits.max_que", "did you mean 'max_queue'"),
        (("max_queue: 10", "max_queue: many"), 14, "limits.max_queue", "integer.*'many'"),
        (("max_queue: 10", "max_queue: 0"), 14, "limits.max_queue", "greater than or equal to 1"),
        (("tier: endpoint", "tier: gateway"), 1, "tier", "'endpoint'.*'edge_node'.*'edge_server'"),
        (("mean_pool: 2", "mean_pol: 2"), 8, "model.input.steps.0", "exactly one key of.*mean_pool"),
        (("mean_pool: 2", "mean_pool: two"), 8, "model.input.steps.0.mean_pool", "integer"),
        (("mean_pool: 2", "custom: nowhere:f"), 8, "model.input.steps.0.custom", "cannot import 'nowhere'"),
        (("threshold: 0.8", "treshold: 0.8"), 10, "policy.treshold", "threshold"),
        (("Threshold, ", "Treshold, "), 10, "policy.name", "Threshold"),
        (("name: Threshold, threshold: 0.8", "name: 'nowhere:Mine'"), 10, "policy.name", "nowhere"),
        (("127.0.0.1:8002", "somewhere"), 12, "upstream.address", "host:port"),
        (("upstream:", "upstraem:"), 11, "upstraem", "did you mean 'upstream'"),
        (("policy: {name: Threshold, threshold: 0.8}\n", ""), 1, "", "upstream without a policy"),
        (("  file: model.onnx\n", ""), 2, "model.file", "required"),
    ],
)
def test_a_mistake_is_one_line_with_file_line_key_and_remedy(
    write: Path, change: tuple[str, str], line: int, key: str, says: str
) -> None:
    """Whatever is wrong: where it stands, which key, what to do."""
    assert change[0] in GOOD
    error = failure(write, GOOD.replace(*change))
    assert error.key == key
    assert error.source == f"{write}:{line}"
    assert __import__("re").search(says, error.message), error.message


@pytest.mark.parametrize(
    ("score", "kind", "says"),
    [
        ("energy", "posterior", "energy"),
        ("max_prob", "raw", "raw"),
        ("max_prb", "logits", "max_prob"),
        ("nowhere:score", "logits", "nowhere"),
    ],
)
def test_a_score_that_cannot_be_is_refused(write: Path, score: str, kind: str, says: str) -> None:
    """Energy on probabilities, a class score on a raw model, a misspelt one, one that cannot be imported."""
    text = GOOD.replace("  file: model.onnx\n", f"  file: model.onnx\n  output_kind: {kind}\n") + f"score: {score}\n"
    error = failure(write, text)
    assert error.key == "score"
    assert error.source == f"{write}:16"
    assert says in error.message


def test_bad_yaml_names_the_line(write: Path) -> None:
    """A tab or an open bracket: the line, and no traceback."""
    assert failure(write, "tier: endpoint\nmodel: [\n").source.startswith(f"{write}:")


def test_a_key_that_stands_twice_is_refused(write: Path) -> None:
    """YAML would silently keep the last one."""
    error = failure(write, GOOD + "  max_queue: 20\n")
    assert error.source == f"{write}:15"
    assert "twice" in error.message


@pytest.mark.parametrize("text", ["", "- a list\n", "42\n"])
def test_a_file_that_is_no_mapping_is_refused(write: Path, text: str) -> None:
    """An empty file too."""
    assert "mapping" in failure(write, text).message


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    """The reason is the system's, in one line."""
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml", {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "binary.yaml", {})


def test_the_environment_overrides_the_file(write: Path) -> None:
    """Values are YAML, sections may be new, case does not matter."""
    config = load_config(
        write,
        {
            "ESCALADE__LIMITS__MAX_QUEUE": "7",
            "ESCALADE__UPSTREAM__ADDRESS": "127.0.0.1:9",
            "ESCALADE__METRICS__ADDRESS": "127.0.0.1:1",
            "ESCALADE__MODEL__PROVIDERS": "[cpu]",
            "OTHER": "1",
        },
    )
    assert config.limits.max_queue == 7
    assert config.upstream is not None
    assert config.upstream.address == "127.0.0.1:9"
    assert config.metrics is not None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ESCALADE__LIMITS__MAX_QUEUE", "many", "integer"),
        ("ESCALADE__LIMITS__NOTHING", "1", "unknown key"),
        ("ESCALADE__TIER__NAME", "x", "value, not a section"),
        ("ESCALADE__POLICY", "[", "YAML"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(write: Path, name: str, value: str, says: str) -> None:
    """The file is not blamed for it."""
    error = failure(write, GOOD, {name: value})
    assert error.source == name
    assert says in error.message


def test_an_upstream_can_be_switched_off_by_the_environment(write: Path) -> None:
    """`null` takes a section away."""
    assert load_config(write, {"ESCALADE__UPSTREAM": "null"}).upstream is None


def test_links_are_the_upstream_and_then_its_fallbacks(write: Path) -> None:
    """In the order of the file; what holds for all of them is said of the upstream alone."""
    write.write_text(WITH_FALLBACKS)
    config = load_config(write, {})
    assert [link.address for link in config.links] == [f"127.0.0.1:{port}" for port in (8002, 8003, 8004)]
    assert [link.only for link in config.fallbacks] == [None, "critical"]
    assert [link.probe_ms for link in config.links] == [1000, 1000, 10_000]


@pytest.mark.parametrize(
    ("change", "line", "key", "says"),
    [
        (("127.0.0.1:8004", "somewhere"), 17, "fallbacks.1.address", "host:port"),
        (("127.0.0.1:8004", "127.0.0.1:8003"), 15, "fallbacks", "two links lead to 127.0.0.1:8003"),
        (("127.0.0.1:8003", "127.0.0.1:8002"), 15, "fallbacks", "two links lead to 127.0.0.1:8002"),
        (("only: critical", "only: bulk"), 17, "fallbacks.1.only", "'critical'"),
        (("only: critical", "onyl: critical"), 17, "fallbacks.1.onyl", "did you mean 'only'"),
        (("only: critical", "timeout_ms: 10"), 17, "fallbacks.1.timeout_ms", "unknown key; known here: address"),
    ],
)
def test_a_mistake_in_a_fallback_names_its_place(
    write: Path, change: tuple[str, str], line: int, key: str, says: str
) -> None:
    """Two links to one address could not be told apart; a key of all links together is no key of one."""
    error = failure(write, WITH_FALLBACKS.replace(*change))
    assert (error.source, error.key) == (f"{write}:{line}", key)
    assert re.search(says, error.message)


def test_fallbacks_need_something_to_fall_back_from(write: Path) -> None:
    """The environment may take the upstream away and forget them."""
    error = failure(write, WITH_FALLBACKS, {"ESCALADE__UPSTREAM": "null"})
    assert (error.source, error.key) == (f"{write}:15", "fallbacks")
    assert "add `upstream:`" in error.message


def test_shown_values_load_again_as_the_same_configuration(write: Path) -> None:
    """`config show` prints a file that means what it showed."""
    config = load_config(write, {})
    shown = yaml.safe_load(show_config(config))
    assert TierConfig.model_validate(shown).model_dump(exclude={"model": {"name"}}) == config.model_dump(
        exclude={"model": {"name"}}
    )


EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    """What the examples folder shows is a valid configuration."""
    assert load_config(path, {}).tier in path.stem.replace("-", "_")


def test_there_is_an_example_for_every_tier_and_a_unit_that_serves_it() -> None:
    """Raspberry Pi, Jetson and server, each with its systemd unit."""
    assert {load_config(path, {}).tier for path in EXAMPLES} == {"endpoint", "edge_node", "edge_server"}
    for tier in ("endpoint", "edge-node", "edge-server"):
        unit = (EXAMPLES[0].parent / "systemd" / f"escalade-{tier}.service").read_text()
        assert f"escalade serve {tier} --config /etc/escalade/{tier}.yaml" in unit


WRITING = (
    GOOD
    + """\
outbox: {file: a.db, corrections: c.jsonl}
inbox: {file: b.db}
egress_ledger: {file: l.json}
record: {folder: r}
aggregate: {address: '127.0.0.1:1', node: n, outbox: d.db}
"""
)


@pytest.mark.parametrize(
    ("change", "key", "other"),
    [
        (("file: b.db", "file: a.db"), "inbox.file", "outbox.file"),
        (("c.jsonl", "x/../a.db"), "outbox.corrections", "outbox.file"),
        (("d.db", "b.db"), "aggregate.outbox", "inbox.file"),
        (("folder: r", "folder: l.json"), "record.folder", "egress_ledger.file"),
        (("l.json", "model.onnx"), "egress_ledger.file", "model.file"),
        (("file: b.db", "file: link.db"), "inbox.file", "outbox.file"),
    ],
)
def test_no_two_things_are_kept_in_one_place(write: Path, change: tuple[str, str], key: str, other: str) -> None:
    """However the path is written; the line names both keys."""
    (write.parent / "link.db").symlink_to("a.db")
    write.write_text(WRITING)
    load_config(write, {})
    error = failure(write, WRITING.replace(*change))
    assert error.key == key
    assert f"is {other} too; give each a path of its own" in error.message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("{file: a.db,", "{file: a.db, max_mb: 0.0000001,"), "outbox.max_mb"),
        (("{file: a.db,", "{file: a.db, corrections_mb: 0.0000001,"), "outbox.corrections_mb"),
        (("{file: b.db}", "{file: b.db, max_mb: 0.0000001}"), "inbox.max_mb"),
        (("outbox: d.db", "outbox: d.db, outbox_mb: 0.0000001"), "aggregate.outbox_mb"),
    ],
)
def test_a_file_that_could_hold_nothing_is_refused(write: Path, change: tuple[str, str], key: str) -> None:
    """As a configuration, before its bytes come to none."""
    error = failure(write, WRITING.replace(*change))
    assert (error.key, "greater than or equal to 0.1" in error.message) == (key, True)


def test_an_input_that_an_aggregator_takes_fits_a_message(write: Path) -> None:
    """Else a node that sends it is refused for ever; the line names both keys."""
    text = "tier: edge_server\nmodel: {file: m.onnx}\naggregator: {nodes: [a]}\nlimits: {max_message_bytes: 2048}\n"
    assert "max_raw_bytes (65536) does not fit limits.max_message_bytes (2048)" in failure(write, text).message


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (("c.jsonl", "folder"), "outbox.corrections", "is a folder; give the path of a file"),
        (("folder: r", "folder: file"), "record.folder", "is a file; give the path of a folder"),
        (("b.db", "file/b.db"), "inbox.file", "is no folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_without_opening_it(
    write: Path, change: tuple[str, str], key: str, says: str
) -> None:
    """Nothing is made by the look."""
    (write.parent / "folder").mkdir()
    (write.parent / "file").touch()
    write.write_text(WRITING)
    check_usable(load_config(write, {}))
    write.write_text(WRITING.replace(*change))
    with pytest.raises(ConfigError, match=says) as caught:
        check_usable(load_config(write, {}))
    assert caught.value.key == key
    assert {path.name for path in write.parent.iterdir()} == {"file", "folder", "tier.yaml"}
