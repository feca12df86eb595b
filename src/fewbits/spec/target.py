"""Targets: what a device accepts, as data. One TOML file per device in `targets/`, or the user's own file.

AIMET's quantsim configurations can be read as targets, too: see `aimet_config.py`.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from fewbits.errors import SpecError
from fewbits.spec.dtypes import DType
from fewbits.spec.toml_text import read_toml

DEFAULT_TARGET = "qnn-htp-v73"
_AIMET = "aimet:"
_KEYS = {
    "description", "extends", "activation_types", "weight_types", "per_channel", "fused", "fixed_ranges",
    "concat_shares_grid", "gamma_follows_activation", "left_float", "fp16", "int4_per_tensor", "widest_gamma",
    "second_operand", "highest_int16", "per_block",
}  # fmt: skip
_NEEDED = ("description", "activation_types", "weight_types", "per_channel", "fused")
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_T = TypeVar("_T")
_INT16_MAX = 32767


@dataclass(frozen=True, slots=True)
class Target:
    """Rules of one device.

    Attributes:
        name: as on the command line, `qnn-htp-v73`.
        description: one line for people.
        activation_types: container types that activations may have.
        weight_types: container types that weights may have.
        per_channel: operators whose weights may have one scale per output channel.
        per_block: operators whose weights may have several scales per output channel, one for each block of inputs;
            convolutions only where their kernel is a single position.
        fused: operator -> operators that it absorbs when they are its only consumer (they share one output grid).
        fixed_ranges: operator -> (low, high) of its output, whatever calibration saw.
        concat_shares_grid: the inputs of Concat take the grid of its output where nothing else reads them.
        gamma_follows_activation: scale of normalizations is an unsigned tensor as wide as the activations
            (else a symmetric signed weight).
        left_float: operator -> reason why it stays in float on this device.
        fp16: whether the device computes in float16.
        int4_per_tensor: whether weights of at most 4 bits may have one scale for the whole tensor (one output channel
            counts as that); where not, their codes are stored as int8.
        widest_gamma: most bits that the scale of a normalization may have, 8 or 16.
        highest_int16: highest code of int16 weights and operands that the device multiplies without clipping.
        second_operand: type in which a product of two activations reads the second one where activations have 16 bits.
        notes: sentences on what the rules came from and fewbits does not carry out.
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
    int4_per_tensor: bool = True
    widest_gamma: int = 16
    second_operand: DType = DType.UINT16
    highest_int16: int = _INT16_MAX
    per_block: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with fewbits."""
    folder = resources.files("fewbits.spec") / "targets"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_target(name: str | Path | Target) -> Target:
    """Return the target called `name`, or the one that a file describes.

    Args:
        name: of `target_names`, the path of a TOML file, or "aimet:" and the path of AIMET's quantsim configuration; a
            target itself is returned as it is.

    Raises:
        SpecError: no such target or file, or the file has an unknown key or value.
    """
    if isinstance(name, Target):
        return name
    text = str(name)
    if text.startswith(_AIMET):
        from fewbits.spec.aimet_config import read_aimet_config  # which makes Targets itself

        return read_aimet_config(text.removeprefix(_AIMET))
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise SpecError(f"The target file {text!r} does not exist.")
        return _build(path.stem, _resolve(_read(path), text), text)
    if text not in target_names():
        known = [_AIMET + text] if text.endswith(".json") else difflib.get_close_matches(text, target_names(), 1)
        hint = f" Did you mean {known[0]!r}?" if known else ""
        names = ", ".join(target_names())
        raise SpecError(f"Unknown target {text!r}: choose one of {names}, FILE.toml or {_AIMET}FILE.json.{hint}")
    return _build(text, _builtin(text), text)


def _builtin(name: str) -> dict[str, Any]:
    if name not in target_names():  # and not whether there is a file: a name may lead anywhere
        raise SpecError(f"No target {name!r:.80} to extend: choose one of {', '.join(target_names())}.")
    file = resources.files("fewbits.spec") / "targets" / f"{name}.toml"
    return _resolve(tomllib.loads(file.read_text(encoding="utf-8")), name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path, "target")
    except SpecError as error:
        is_text = not isinstance(error.__cause__, OSError | UnicodeDecodeError)
        fault = "is not valid TOML" if is_text else "cannot be read as text"
        raise SpecError(f"The target file {str(path)!r} {fault}: {error}") from error


def _resolve(table: dict[str, Any], where: str) -> dict[str, Any]:
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"Target {where!r} has the unknown key {key!r}: the keys are {sorted(_KEYS)}.{hint}")
    base = _builtin(str(table.pop("extends"))) if "extends" in table else {}
    return {**base, **table}


def _build(name: str, table: Mapping[str, Any], where: str) -> Target:
    for key in _NEEDED:
        if key not in table:
            raise SpecError(f"Target {where!r} lacks the key {key!r}: write it, or extends = {DEFAULT_TARGET!r}.")
    read = _Reader(table, where)
    return Target(
        name=name,
        description=read.typed("description", table["description"], str, "a text"),
        activation_types=read.types("activation_types"),
        weight_types=read.types("weight_types"),
        per_channel=read.names("per_channel", table["per_channel"]),
        fused={k: read.names(f"fused.{k}", v) for k, v in read.table("fused").items()},
        fixed_ranges={k: read.interval(f"fixed_ranges.{k}", v) for k, v in read.table("fixed_ranges").items()},
        concat_shares_grid=read.flag("concat_shares_grid"),
        gamma_follows_activation=read.flag("gamma_follows_activation"),
        left_float={k: read.typed(f"left_float.{k}", v, str, "a reason") for k, v in read.table("left_float").items()},
        fp16=read.flag("fp16"),
        int4_per_tensor=read.flag("int4_per_tensor"),
        widest_gamma=read.width("widest_gamma"),
        second_operand=read.one_type("second_operand", DType.UINT16),
        highest_int16=read.code("highest_int16"),
        per_block=read.layers("per_block"),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads values of a target file and says which one is wrong."""

    source: Mapping[str, Any]
    where: str

    def typed(self, key: str, value: Any, kind: type[_T], what: str) -> _T:
        if not isinstance(value, kind):
            raise SpecError(f"Target {self.where!r} has {key} = {value!r}: write {what}.")
        return value

    def table(self, key: str) -> dict[str, Any]:
        return self.typed(key, self.source.get(key, {}), dict, "a table, one operator per line")

    def flag(self, key: str) -> bool:
        return self.typed(key, self.source.get(key, True), bool, "true or false")

    def width(self, key: str) -> int:
        found = self.source.get(key, 16)
        if found not in (8, 16):
            raise SpecError(f"Target {self.where!r} has {key} = {found!r}: write 8 or 16.")
        return int(found)

    def names(self, key: str, value: Any) -> frozenset[str]:
        found = self.typed(key, value, list, "a list of names in quotes")
        return frozenset(self.typed(key, name, str, "a list of names in quotes") for name in found)

    def layers(self, key: str) -> frozenset[str]:
        found = self.names(key, self.source.get(key, []))
        for name in sorted(found - _LAYERS):
            raise SpecError(f"Target {self.where!r} has {name!r} in {key}: choose of {sorted(_LAYERS)}.")
        return found

    def types(self, key: str) -> frozenset[DType]:
        known = [d.value for d in DType]
        for name in (found := self.names(key, self.source[key])):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise SpecError(f"Target {self.where!r} has the type {name!r} in {key}: choose of {known}.{hint}")
        return frozenset(DType(name) for name in found)

    def one_type(self, key: str, default: DType) -> DType:
        if key not in self.source:
            return default
        (found,) = _Reader({key: [self.source[key]]}, self.where).types(key)
        return found

    def code(self, key: str) -> int:
        found = self.source.get(key, _INT16_MAX)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= _INT16_MAX:
            raise SpecError(f"Target {self.where!r} has {key} = {found!r}: write a whole number up to {_INT16_MAX}.")
        return found

    def interval(self, key: str, value: Any) -> tuple[float, float]:
        ends = self.typed(key, value, list, "[low, high]")
        if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
            raise SpecError(f"Target {self.where!r} has {key} = {value!r}: write [low, high], low below high.")
        return float(ends[0]), float(ends[1])
