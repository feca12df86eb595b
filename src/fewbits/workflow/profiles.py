"""Read mixed-precision profiles: node name -> precision, from a dict or from a JSON or TOML file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewbits.errors import SpecError
from fewbits.quantization.profile import Profile
from fewbits.spec.toml_text import read_toml


def open_profile(precision: str, profile: Mapping[str, str] | str | Path | None = None) -> Profile:
    """Return the profile: `precision` for every node that `profile` does not name.

    Args:
        precision: such as "w8a8".
        profile: node name -> precision, or a JSON or TOML file of such pairs.

    Raises:
        SpecError: a precision is unknown, or the file cannot be read.
    """
    if profile is None or isinstance(profile, Mapping):
        return Profile.parse(precision, profile)
    return Profile.parse(precision, _read(Path(profile)))


def _read(path: Path) -> dict[str, str]:
    if path.suffix not in (".json", ".toml"):
        raise SpecError(f"The profile {str(path)!r} is neither .json nor .toml: write node = precision pairs in one.")
    try:
        is_json = path.suffix == ".json"
        table: Any = json.loads(path.read_text(encoding="utf-8")) if is_json else read_toml(path, "profile")
    except (OSError, ValueError, RecursionError, SpecError) as error:
        if not path.exists():
            raise SpecError(f"The profile {str(path)!r} does not exist: check the path.") from None
        raise SpecError(f"The profile {str(path)!r} cannot be read: {error}.") from error
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise SpecError(
            f'The profile {str(path)!r} must hold pairs of node name and precision, such as "head": "fp16".'
        )
    return table
