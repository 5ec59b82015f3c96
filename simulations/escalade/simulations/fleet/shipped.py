"""The scenarios that ship: `shipped`, and `find`, which takes a name or a file."""

from __future__ import annotations

from pathlib import Path

from escalade.tiers.errors import ConfigError

HERE = Path(__file__).resolve()
FOLDERS = (HERE.parents[1] / "scenarios", HERE.parents[3] / "scenarios")
"""In an installed package; in a checkout."""


def shipped() -> dict[str, Path]:
    """Return their files by name, in alphabetical order."""
    folder = next((one for one in FOLDERS if one.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def first_line(file: Path) -> str:
    """Return what a scenario's comment block begins with."""
    text = file.read_text(encoding="utf-8").partition("\n")[0]
    return text.lstrip("# ").rstrip()


def find(name: str) -> Path:
    """Return the file that a command names, itself or by a shipped scenario's name.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    file, known = Path(name), shipped()
    if file.is_file():
        return file
    if name in known:
        return known[name]
    if file.suffix in (".yaml", ".yml"):
        raise ConfigError("no such file", source=name)
    raise ConfigError(f"no such file, and no shipped scenario of that name; there are {', '.join(known)}", source=name)
