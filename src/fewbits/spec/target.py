"""Targets: what a device accepts, as data. One TOML file per device in `targets/`, or the user's own file."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType

DEFAULT_TARGET = "qnn-htp-v73"
_KEYS = {
    "description", "extends", "activation_types", "weight_types", "per_channel", "fused", "fixed_ranges",
    "concat_shares_grid", "gamma_follows_activation", "left_float", "fp16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """Rules of one device.

    Attributes:
        name: as on the command line, `qnn-htp-v73`.
        description: one line for people.
        activation_types: container types that activations may have.
        weight_types: container types that weights may have.
        per_channel: operators whose weights may have one scale per output channel.
        fused: operator -> operators that it absorbs when they are its only consumer (they share one output grid).
        fixed_ranges: operator -> (low, high) of its output, whatever calibration saw.
        concat_shares_grid: the inputs of Concat take the grid of its output where nothing else reads them.
        gamma_follows_activation: scale of normalizations is an unsigned tensor as wide as the activations
            (else a symmetric signed weight).
        left_float: operator -> reason why it stays in float on this device.
        fp16: whether the device computes in float16.
    """

    name: str
    description: str
    activation_types: frozenset[DType]
    weight_types: frozenset[DType]
    per_channel: frozenset[str]
    fused: Mapping[str, frozenset[str]]
    fixed_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    concat_shares_grid: bool = True
    gamma_follows_activation: bool = True
    left_float: Mapping[str, str] = field(default_factory=dict)
    fp16: bool = True


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with fewbits."""
    folder = resources.files("fewbits.spec") / "targets"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_target(name: str | Path) -> Target:
    """Return the target called `name`, or the one described by the TOML file at that path.

    Raises:
        SpecError: no such target or file, or the file has an unknown key or value.
    """
    text = str(name)
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise SpecError(f"The target file {text!r} does not exist.")
        return _build(path.stem, _resolve(path.read_text(encoding="utf-8"), text), text)
    if text not in target_names():
        near = difflib.get_close_matches(text, target_names(), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"Unknown target {text!r}: choose one of {', '.join(target_names())} or a .toml file.{hint}")
    return _build(text, _builtin(text), text)


def _builtin(name: str) -> dict[str, Any]:
    file = resources.files("fewbits.spec") / "targets" / f"{name}.toml"
    if not file.is_file():
        raise SpecError(f"No target {name!r} to extend: choose one of {', '.join(target_names())}.")
    return _resolve(file.read_text(encoding="utf-8"), name)


def _resolve(text: str, where: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"The target file {where!r} is not valid TOML: {error}.") from error
    unknown = set(table) - _KEYS
    if unknown:
        raise SpecError(f"Target {where!r} has unknown keys {sorted(unknown)}: the keys are {sorted(_KEYS)}.")
    base = _builtin(str(table.pop("extends"))) if "extends" in table else {}
    return {**base, **table}


def _build(name: str, table: Mapping[str, Any], where: str) -> Target:
    try:
        return Target(
            name=name,
            description=str(table["description"]),
            activation_types=frozenset(DType(t) for t in table["activation_types"]),
            weight_types=frozenset(DType(t) for t in table["weight_types"]),
            per_channel=frozenset(table["per_channel"]),
            fused={k: frozenset(v) for k, v in table["fused"].items()},
            fixed_ranges={k: (float(v[0]), float(v[1])) for k, v in table.get("fixed_ranges", {}).items()},
            concat_shares_grid=bool(table.get("concat_shares_grid", True)),
            gamma_follows_activation=bool(table.get("gamma_follows_activation", True)),
            left_float=dict(table.get("left_float", {})),
            fp16=bool(table.get("fp16", True)),
        )
    except KeyError as error:
        raise SpecError(f"Target {where!r} lacks the key {error}.") from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise SpecError(f"Target {where!r} has a value that cannot be used: {error}.") from error
