"""The text of a new settings file: every key with a line that says what it does; keys without a value are comments."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewbits.cli.settings_keys import KEYS, SECTIONS
from fewbits.cli.settings_values import move_path
from fewbits.spec.toml_text import toml_line

_HEAD = """\
# What fewbits does in this folder. Flags on the command line override it; `fewbits --no-config VERB` ignores it.
# Paths are relative to this file. A section of a verb's own, such as [amp], takes all of that verb's options.
"""


def settings_text(values: Mapping[str, Any]) -> str:
    """Return the text of a settings file.

    Args:
        values: `data.calibration` -> value, as TOML knows it.

    Raises:
        SpecError: a text that UTF-8 cannot hold.
        KeyError: there is no such key.
    """
    unknown = set(values) - {key.where for key in KEYS}
    if unknown:
        raise KeyError(*sorted(unknown))
    parts = [_HEAD]
    for section, keys in SECTIONS.items():
        lines = [f"[{section}]"]
        for key in keys.values():
            lines += textwrap.wrap(key.help, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            is_set = key.where in values
            lines.append(toml_line(key.name, values[key.where]) if is_set else f"# {key.name} = {key.example}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def seen_from(folder: Path, text: str, *, always: bool) -> str:
    """Return a path of the current folder as it is seen from `folder`; see `move_path`."""
    if folder.resolve() == Path.cwd().resolve():
        return text
    return move_path(text, lambda file: Path(os.path.relpath(file, folder)).as_posix(), always=always)
