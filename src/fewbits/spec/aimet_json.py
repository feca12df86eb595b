"""AIMET's quantsim configuration as a value: a JSON file in, checked settings out. What they mean is decided later."""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fewbits.errors import SpecError

_SECTIONS = ("defaults", "params", "op_type", "supergroups", "model_input", "model_output")
_PASSES = "supergroup_pass_list"
_DEFAULTS = (
    "ops", "params", "hw_version", "strict_symmetric", "unsigned_symmetric", "per_channel_quantization",
    "supported_kernels",
)  # fmt: skip
_OPS = ("is_input_quantized", "is_output_quantized", "is_symmetric")
_OP_TYPE = (*_OPS, "per_channel_quantization", "params", "encoding_constraints", "supported_kernels")
_PARAMS = ("is_quantized", "is_symmetric")
_ENCODINGS = {"encodings", "activation_encodings", "param_encodings"}
_WORD = re.compile(r"[\w.:-]+", re.ASCII)
_LARGEST = 3.4028235e38  # of float32
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ParamSettings:
    """What the file says of a parameter; None where it says nothing."""

    is_quantized: bool | None = None
    is_symmetric: bool | None = None


@dataclass(frozen=True, slots=True)
class OpSettings:
    """What the file says of an operator; None where it says nothing.

    Attributes:
        is_input_quantized: its inputs have quantizers.
        is_output_quantized: its outputs have quantizers.
        is_symmetric: those are symmetric.
        is_per_channel: its weights have one scale per channel.
        params: parameter -> settings.
        low: lower end of its output, whatever calibration saw.
        high: upper end.
        has_kernels: the widths of its kernels are listed.
    """

    is_input_quantized: bool | None = None
    is_output_quantized: bool | None = None
    is_symmetric: bool | None = None
    is_per_channel: bool | None = None
    params: Mapping[str, ParamSettings] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    has_kernels: bool = False


@dataclass(frozen=True, slots=True)
class AimetConfig:
    """A checked file. Later sections win: defaults, params, op_type, supergroups, model_input, model_output.

    Attributes:
        hw_version: such as V73, or an empty text.
        ops: settings of every operator.
        all_params: settings of every parameter.
        params: parameter, such as weight or bias -> settings.
        op_types: operator -> settings.
        supergroups: operators that follow each other with one quantizer, behind the last.
        passes: names of AIMET's graph passes that find larger groups.
        is_strict: the lowest code of symmetric grids stays unused.
        is_unsigned: symmetric grids without negative values are unsigned.
        is_input_quantized: the inputs of the model have quantizers.
        is_output_quantized: the outputs of the model have quantizers; None leaves it to their operators.
    """

    hw_version: str
    ops: OpSettings
    all_params: ParamSettings
    params: Mapping[str, ParamSettings]
    op_types: Mapping[str, OpSettings]
    supergroups: tuple[tuple[str, ...], ...]
    passes: tuple[str, ...]
    is_strict: bool | None
    is_unsigned: bool | None
    is_input_quantized: bool | None
    is_output_quantized: bool | None

    def op(self, op_type: str) -> OpSettings:
        """Return what the section op_type says of one operator."""
        return self.op_types.get(op_type, OpSettings())

    def is_per_channel(self, op_type: str) -> bool:
        """Whether weights of an operator have one scale per channel."""
        return _last(self.ops.is_per_channel, self.op(op_type).is_per_channel)

    def is_param_quantized(self, op_type: str, name: str) -> bool:
        """Whether a parameter of an operator has a quantizer. What nothing is said of has none."""
        return _last(*(layer.is_quantized for layer in self._layers(op_type, name)))

    def is_param_symmetric(self, op_type: str, name: str) -> bool:
        """Whether that quantizer is symmetric. What nothing is said of is not."""
        return _last(*(layer.is_symmetric for layer in self._layers(op_type, name)))

    def _layers(self, op_type: str, name: str) -> tuple[ParamSettings, ...]:
        nothing = ParamSettings()
        return self.all_params, self.params.get(name, nothing), self.op(op_type).params.get(name, nothing)


def read_aimet_json(path: str | Path) -> AimetConfig:
    """Return the settings of the file at `path`.

    Raises:
        SpecError: there is no such file, it is no quantsim configuration, or a key or value is none of AIMET's.

    Source: the JSON schema of aimet-onnx 2.42.
    """
    read = _Reader(str(path))
    sections = read.closed("", _load(str(path)), (*_SECTIONS, _PASSES), _SECTIONS)
    defaults = read.closed("defaults", sections["defaults"], _DEFAULTS, ("ops", "params"))
    return AimetConfig(
        hw_version=read.text("defaults.hw_version", defaults.get("hw_version", "")),
        ops=read.op("defaults", {**read.closed("defaults.ops", defaults["ops"], _OPS), **_shared(defaults)}),
        all_params=read.param("defaults.params", defaults["params"]),
        params=read.params("params", sections["params"]),
        op_types={
            name: read.op(f"op_type.{name}", read.closed(f"op_type.{name}", value, _OP_TYPE))
            for name, value in read.entries("op_type", sections["op_type"])
        },
        supergroups=read.supergroups(sections["supergroups"]),
        passes=read.words(_PASSES, sections.get(_PASSES, [])),
        is_strict=read.flag("defaults", defaults, "strict_symmetric"),
        is_unsigned=read.flag("defaults", defaults, "unsigned_symmetric"),
        is_input_quantized=read.only_flag("model_input", sections["model_input"], "is_input_quantized"),
        is_output_quantized=read.only_flag("model_output", sections["model_output"], "is_output_quantized"),
    )


def _last(*said: bool | None) -> bool:
    """Return the last word, or False where nothing is said."""
    return next((word for word in reversed(said) if word is not None), False)


def _shared(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that stand in `defaults` itself and mean the same as in one operator."""
    return {key: defaults[key] for key in ("per_channel_quantization", "supported_kernels") if key in defaults}


def _load(where: str) -> dict[str, Any]:
    path, name = Path(where), f"The AIMET configuration {where!r}"
    try:
        if not where or not path.is_file():
            raise SpecError(f"{name} does not exist: write aimet:FILE.json, relative to the working directory.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{name} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{name} is not valid JSON: {error}.") from error
    found = {*document} if isinstance(document, dict) else set()
    if found & _ENCODINGS:
        raise SpecError(f"{where!r} holds encodings, not a quantsim configuration: give it to --encodings.")
    if not found & {*_SECTIONS}:
        raise SpecError(f"{where!r} is no quantsim configuration of AIMET, which has the sections {_words(_SECTIONS)}.")
    return {**document}


def _words(names: Iterable[str]) -> str:
    return ", ".join(names)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads values and says which one is wrong; `key` is the dotted place of a value in the file."""

    where: str

    @property
    def name(self) -> str:
        return f"The AIMET configuration {self.where!r}"

    def wrong(self, key: str, value: Any, what: str) -> SpecError:
        return SpecError(f"{self.name} has {key} = {reprlib.repr(value)}: write {what}.")

    def typed(self, key: str, value: Any, kind: type[_T], what: str) -> _T:
        if not isinstance(value, kind):
            raise self.wrong(key, value, what)
        return value

    def table(self, key: str, value: Any) -> dict[str, Any]:
        return self.typed(key, value, dict, "a table in braces")

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise self.wrong(key, value, "a line of text, such as V73")
        return value

    def word(self, key: str, value: Any) -> str:
        """Return the name of an operator, a parameter or a pass."""
        if not isinstance(value, str) or not _WORD.fullmatch(value):
            raise self.wrong(key, value, "names in quotes, each one word")
        return value

    def words(self, key: str, value: Any) -> tuple[str, ...]:
        return tuple(self.word(key, name) for name in self.typed(key, value, list, "a list of names in quotes"))

    def entries(self, key: str, value: Any) -> Iterable[tuple[str, Any]]:
        return ((self.word(key, name), inner) for name, inner in self.table(key, value).items())

    def closed(self, key: str, value: Any, known: Sequence[str], needed: Iterable[str] = ()) -> dict[str, Any]:
        """Return a table that has no key but `known`, and all of `needed`."""
        found = self.table(key, value)
        kind, place = ("key", f" in {key}") if key else ("section", "")
        for name in found:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise SpecError(f"{self.name} has the unknown {kind} {name!r}{place}: choose of {_words(known)}.{hint}")
        for name in needed:
            if name not in found:
                raise SpecError(f"{self.name} lacks the {kind} {name!r}{place}: write it, empty where it says nothing.")
        return found

    def flag(self, key: str, table: Mapping[str, Any], name: str) -> bool | None:
        if name not in table:
            return None
        if table[name] not in ("True", "False"):
            raise self.wrong(f"{key}.{name}", table[name], '"True" or "False", in quotes')
        return bool(table[name] == "True")

    def only_flag(self, key: str, value: Any, name: str) -> bool | None:
        return self.flag(key, self.closed(key, value, (name,)), name)

    def param(self, key: str, value: Any) -> ParamSettings:
        table = self.closed(key, value, _PARAMS)
        return ParamSettings(self.flag(key, table, "is_quantized"), self.flag(key, table, "is_symmetric"))

    def params(self, key: str, value: Any) -> dict[str, ParamSettings]:
        return {name: self.param(f"{key}.{name}", inner) for name, inner in self.entries(key, value)}

    def op(self, key: str, table: Mapping[str, Any]) -> OpSettings:
        """Return the settings in a table whose keys are known already."""
        low, high = self.constraint(f"{key}.encoding_constraints", table) or (None, None)
        return OpSettings(
            is_input_quantized=self.flag(key, table, "is_input_quantized"),
            is_output_quantized=self.flag(key, table, "is_output_quantized"),
            is_symmetric=self.flag(key, table, "is_symmetric"),
            is_per_channel=self.flag(key, table, "per_channel_quantization"),
            params=self.params(f"{key}.params", table.get("params", {})),
            low=low,
            high=high,
            has_kernels=self.has_kernels(f"{key}.supported_kernels", table.get("supported_kernels", [])),
        )

    def constraint(self, key: str, table: Mapping[str, Any]) -> tuple[float, float | None] | None:
        if "encoding_constraints" not in table:
            return None
        found = self.closed(key, table["encoding_constraints"], ("min", "max"), ("min",))
        low, high = ends = found["min"], found.get("max", _LARGEST)
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            raise self.wrong(key, found, "a number as min and, if there is one, as max")
        if not -_LARGEST <= low < high <= _LARGEST:
            raise self.wrong(key, found, "finite numbers, min below max")
        return float(low), float(high) if "max" in found else None

    def has_kernels(self, key: str, value: Any) -> bool:
        for kernel in (found := self.typed(key, value, list, "a list of tables")):
            for part, widths in self.closed(key, kernel, ("activation", "param")).items():
                self.closed(f"{key}.{part}", widths, ("bitwidth", "dtype"))
        return bool(found)

    def supergroups(self, value: Any) -> tuple[tuple[str, ...], ...]:
        key = "supergroups.op_list"
        tables = self.typed("supergroups", value, list, "a list of tables")
        lists = (self.closed("supergroups", table, ("op_list",), ("op_list",))["op_list"] for table in tables)
        found = tuple(self.words(key, names) for names in lists)
        for group in found:
            if len(group) < 2:
                raise self.wrong(key, list(group), "two operators or more")
        return found
