"""A whole run as a file: what `fewbits.toml` gives the verbs, and the file that repeats a run.

In: a TOML file of sections that verbs share (`settings_keys.KEYS`) and one section per verb. Out: the defaults of one
verb's options. Flags override the section of the verb, and that overrides the shared sections.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.cli.settings_keys import GIVES_WAY, SECTIONS, routes
from fewbits.cli.settings_options import Option, verbs
from fewbits.cli.settings_values import WANTED, read_value, write_value
from fewbits.errors import SpecError
from fewbits.spec.toml_text import read_toml, write_toml

SETTINGS_FILE = "fewbits.toml"
_NOT_KEPT = ("json", "quiet")  # how a run is shown, not what it does


@dataclass(frozen=True, slots=True)
class Given:
    """A value from a settings file for one option of one verb.

    Attributes:
        where: section and key, as in `data.calibration`.
        value: what the option takes.
    """

    where: str
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """A settings file that was read and checked.

    Attributes:
        path: the file, as the user would write it.
        values: section -> key -> what the option takes.
    """

    path: Path
    values: Mapping[str, Mapping[str, Any]]

    def defaults(self, verb: str, arguments: Sequence[str]) -> dict[str, Given]:
        """Return what the file says for a verb: parameter of the command's function -> value.

        Args:
            verb: its name on the command line.
            arguments: of the command line, for the flags that replace keys of another name; keys of the verb's own
                section replace the same.
        """
        options, own = verbs()[verb], self.values.get(verb, {})
        flags = {argument.partition("=")[0] for argument in arguments} | {f"--{key}" for key in own}
        named = flags | {f"{verb} {flag}" for flag in flags}
        replaced = {where for flag, keys in GIVES_WAY.items() if flag in named for where in keys}
        found = {}
        for where, option in routes(verb, options).items():
            section, _, key = where.partition(".")
            if key in self.values.get(section, {}) and where not in replaced:
                found[options[option].parameter] = Given(where, self.values[section][key])
        for key, value in own.items():
            found[options[key].parameter] = Given(f"{verb}.{key}", value)
        return found


def open_settings(path: Path | None) -> Settings | None:
    """Return the settings of a file, all of them checked.

    Args:
        path: the file; None takes `fewbits.toml` of the current folder, if there is one.

    Raises:
        SpecError: the file cannot be read, has an unknown section or key, or a value of a wrong type.
    """
    if path is None:
        path = Path(SETTINGS_FILE)
        if not os.path.lexists(path):  # a broken link is an error, not the absence of a file
            return None
    return Settings(path, check_settings(read_toml(path), path))


def check_settings(table: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return section -> key -> what the option takes.

    Args:
        table: as tomllib reads it.
        path: for messages; relative paths start from its folder.

    Raises:
        SpecError: a section or key is unknown, or a value has a wrong type.
    """
    checked: dict[str, dict[str, Any]] = {}
    for section, keys in table.items():
        if not isinstance(keys, Mapping):
            raise SpecError(_outside(section, path, is_list=isinstance(keys, list)))
        known = _known(section)
        if known is None:
            hint = _hint(section, (*SECTIONS, *verbs()), "its sections are", shown=SECTIONS)
            raise SpecError(f"{path}: there is no section [{_cut(section)}]{hint}")
        checked[section] = {}
        for key, value in keys.items():
            if key not in known:
                raise SpecError(f"{path}: [{section}] has no key {_cut(repr(key))}{_key_hint(section, key, known)}")
            taken = read_value(known[key], value, path.parent)
            if taken is None:
                raise SpecError(f"{path}: [{section}] {key} must be {WANTED[known[key]]}, not {_shown(value)}.")
            checked[section][key] = taken
    return checked


def effective_settings(verb: str, options: Mapping[str, Any]) -> str:
    """Return a TOML text that, used as fewbits.toml, repeats a run.

    Paths in it are absolute, so that it may lie anywhere; options without a value are left out.

    Args:
        verb: its name on the command line.
        options: parameter of the command's function -> its value, as typer gave it: `locals()` at the start of the
            command.

    Raises:
        SpecError: a path cannot be written as UTF-8, or a dimension is not NAME=SIZE.
    """
    known = verbs()[verb]
    shared = {option: where for where, option in routes(verb, known).items()}
    sections: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, verb)}
    for name, option in known.items():
        value = options.get(option.parameter)
        if value is None or value == [] or name in _NOT_KEPT:
            continue
        section, _, key = shared.get(name, f"{verb}.{name}").partition(".")
        sections[section][key] = write_value(_known_kinds(section, known)[key], value)
    return f"# repeats this run: fewbits --config THIS_FILE {verb}\n\n{write_toml(sections)}"


def _known(section: str) -> dict[str, str] | None:
    """Return key -> kind of a section, None where there is none."""
    if section in SECTIONS or section in verbs():
        return _known_kinds(section, verbs().get(section, {}))
    return None


def _known_kinds(section: str, options: Mapping[str, Option]) -> dict[str, str]:
    if section in SECTIONS:
        return {name: key.kind for name, key in SECTIONS[section].items()}
    return {name: option.kind for name, option in options.items()}


def _key_hint(section: str, key: str, known: Mapping[str, str]) -> str:
    at_home = [name for name, keys in SECTIONS.items() if key in keys and name != section]
    if at_home:
        return f": it belongs in [{at_home[0]}]."
    if section in SECTIONS:
        return _hint(key, known, "its keys are", shown=known)
    return _hint(key, known, f"its keys are the options of `fewbits {section} --help`", shown=())


def _hint(name: str, known: Iterable[str], intro: str, *, shown: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f": {intro} {', '.join(shown)}".rstrip() + "."


def _outside(name: str, path: Path, *, is_list: bool) -> str:
    if _known(name) is not None:
        what = f"[[{name}]] is a list of sections" if is_list else f"{name!r} is a section and has no value of its own"
        return f"{path}: {what}: write [{name}], and its keys below it."
    homes = [section for section, keys in SECTIONS.items() if name in keys]
    where = f"below [{homes[0]}]" if homes else "in a section, such as [model]"
    return f"{path}: {_cut(repr(name))} stands outside of the sections: write it {where}."


def _shown(value: Any) -> str:
    """Return a TOML value as a message shows it, cut where it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 63:
        return "a number of more than 64 bits"
    return "a table" if isinstance(value, Mapping) else _cut(repr(value))


def _cut(text: str) -> str:
    """Return a text of the file as a message may hold it: short, and without control characters."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 60 else f"{text[:57]}..."
