"""Running models in ONNX Runtime, under one named policy."""

import hashlib
import math
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from fewbits.errors import DataError, ModelError, SpecError
from fewbits.graph.save import EXTERNAL_BYTES
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.processor import saturates

Arrays = dict[str, npt.NDArray[np.generic]]

# Otherwise ORT runs int4/int8-weight MatMul under wider activations as MatMulNBits with 8-bit activations.
_ALWAYS = {"session.qdq_matmulnbits_accuracy_level": "1"}
# Otherwise 8-bit kernels saturate on x86 processors without VNNI (see `processor.saturates`). Elsewhere it changes no
# bit, but makes them slower.
_UNSATURATED = {"session.x64quantprecision": "1"}
# ORT maps external data; packed for its kernels, or dequantized once, weights would lie in memory another time.
_MAPPED = {"session.disable_prepacking": "1"}
# What ORT says when, under that entry, two nodes share one int8 weight: it converts the weight twice.
_CONVERTED_TWICE = "Attempt to replace the existing tensor"


class SessionPolicy(Enum):
    """How ORT may rewrite the graph: the value holds its session options.

    DEFAULT: for speed; 8-bit weights and activations become integer kernels. Where a model has none of those, weights
        are dequantized once and float kernels run (see `without_integer_kernels`). Where ORT cannot keep its integer
        kernels from saturating on this processor, the model runs as under EXACT.
    EXACT: float optimizations only; every QuantizeLinear and DequantizeLinear is executed as written.
    PLAIN: ORT's own defaults, as a user's session has them.

    Under DEFAULT and EXACT the weights of a large model stay in its file: they are neither packed nor dequantized once.
    """

    DEFAULT = "default"
    EXACT = "exact"
    PLAIN = "plain"

    @property
    def options(self) -> Mapping[str, str]:
        """Session config entries of the policy."""
        if self is SessionPolicy.PLAIN:
            return {}
        if self is SessionPolicy.EXACT:
            return {**_ALWAYS, "optimization.disable_specified_optimizers": "QDQSelectorActionTransformer"}
        return {**_ALWAYS, **(_UNSATURATED if saturates() else {})}

    def options_for(self, model: bytes | str | Path) -> Mapping[str, str]:
        """Session config entries of the policy for one model; a large one is left in its file, see `_MAPPED`."""
        graph = None if self is SessionPolicy.PLAIN else _graph(model)
        if graph is None:
            return self.options
        is_dequantized = self is SessionPolicy.DEFAULT and _lacks_integer_kernels(graph)
        if _float_bytes(graph) > EXTERNAL_BYTES:
            return {**(SessionPolicy.EXACT if is_dequantized else self).options, **_MAPPED}
        return {**self.options, **({"session.disable_quant_qdq": "1"} if is_dequantized else {})}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how wide ORT runs.

    Attributes:
        provider: cpu, cuda, or any execution provider's own name.
        threads: intra-op threads; 0 lets ORT choose.
        custom_op_libraries: shared libraries with operators of the user's own; loading one runs its code.
        at_once: samples of a batch that run together, at most, where its inputs have an open first axis; 0 sets no
            limit. It saves memory, and changes no result.
    """

    provider: str = "cpu"
    threads: int = 0
    custom_op_libraries: tuple[str, ...] = ()
    at_once: int = 0

    def provider_name(self) -> str:
        """Return ORT's name of the provider.

        Raises:
            SpecError: this onnxruntime build does not have it.
        """
        available = ort.get_available_providers()
        for name in available:
            if self.provider.lower() in (name.lower(), name.lower().removesuffix("executionprovider")):
                return str(name)
        short = ", ".join(n.removesuffix("ExecutionProvider").lower() for n in available)
        raise SpecError(f"This onnxruntime has no provider {self.provider!r}: it has {short}.")

    def identity(self) -> tuple[str, ...]:
        """Return what results depend on: the provider's name, and the content hash of each custom operator library.

        Raises:
            SpecError: this onnxruntime build does not have the provider, or there is no such library.
        """
        return (self.provider_name(), *(hashlib.sha256(read_library(path)).hexdigest() for path in self.libraries()))

    def libraries(self) -> list[Path]:
        """Return the libraries by their full paths."""
        return [Path(path).expanduser().absolute() for path in self.custom_op_libraries]

    def settings(self, entries: Mapping[str, str]) -> ort.SessionOptions:
        """Return ORT's session options: threads, config entries, custom operators.

        Raises:
            SpecError: there is no such custom operator library, or ORT cannot use it.
        """
        made = ort.SessionOptions()
        made.intra_op_num_threads = self.threads
        made.log_severity_level = 4  # errors come as exceptions, and need not be printed too
        for key, value in entries.items():
            made.add_session_config_entry(key, value)
        for path in self.libraries():
            read_library(path, 1)
            try:
                made.register_custom_ops_library(str(path))
            except Exception as error:  # what the loader of the system says
                raise SpecError(
                    f"onnxruntime cannot use the custom operator library {str(path)!r}: {_said(error)}. It must be a "
                    f"shared library with RegisterCustomOps, built for onnxruntime {ort.__version__} on this machine."
                ) from error
        return made


def read_library(path: Path, most: int = -1) -> bytes:
    """Return the bytes of a custom operator library, at most so many.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise SpecError(
            f"The custom operator library {str(path)!r} cannot be read: {error.strerror}. Check the path."
        ) from error


@dataclass(frozen=True, slots=True)
class Runner:
    """A loaded model: call it with feeds, get outputs by name."""

    session: "ort.InferenceSession | LargeSession"
    inputs: tuple[InputInfo, ...]
    output_names: tuple[str, ...]
    policy: SessionPolicy = field(default=SessionPolicy.DEFAULT)
    at_once: int = 0

    def output_infos(self) -> tuple[InputInfo, ...]:
        """Return name, type and shape of the outputs."""
        return _infos(self.session.get_outputs(), "output")

    def __call__(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
        """Return every output of the model for one batch.

        Raises:
            DataError: ORT refuses the feeds, or fails while running them.
        """
        return self.run(self.output_names, feeds)

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
        """Return the named outputs only."""
        if not names:  # ORT takes an empty list for all of them
            return {}
        pieces = self.split(feeds)
        return (self._run_pieces(names, pieces) if pieces else {}) or self._run(names, feeds)

    def split(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> list[Mapping[str, npt.NDArray[np.generic]]]:
        """Return the pieces of at most `at_once` samples of a batch; none where it is to run, or must, as a whole."""
        sizes = {len(x) if x.ndim else 0 for x in feeds.values()}
        size, most = sizes.pop() if len(sizes) == 1 else 0, self.at_once
        if not most or size <= most or any(not info.shape or isinstance(info.shape[0], int) for info in self.inputs):
            return []
        return [{name: x[i : i + most] for name, x in feeds.items()} for i in range(0, size, most)]

    def _run_pieces(self, names: Sequence[str], pieces: Sequence[Mapping[str, npt.NDArray[np.generic]]]) -> Arrays:
        """Return the outputs of pieces of a batch, put together; nothing where their first axis counts no samples."""
        found: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in names}
        for piece in pieces:
            size = len(next(iter(piece.values())))
            for name, value in self._run(names, piece).items():
                if not isinstance(value, np.ndarray) or not value.ndim or len(value) != size:
                    return {}
                found[name].append(value)
        return {name: np.concatenate(found.pop(name)) for name in names}

    def _run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
        try:
            results = self.session.run(list(names), dict(feeds))
        except Exception as error:  # ORT raises many bare types; each is the same news for the user
            shapes = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in feeds.items())
            raise DataError(f"onnxruntime could not run the model on {shapes}: {_said(error)}.") from error
        return dict(zip(names, results, strict=True))


def open_session(
    model: bytes | str | Path,
    *,
    policy: SessionPolicy = SessionPolicy.DEFAULT,
    options: RunOptions | None = None,
    optimized_path: Path | None = None,
    data_folder: Path | None = None,
) -> Runner:
    """Load a model into ORT.

    Args:
        model: serialized model, or the path of a file (external data are found beside it).
        policy: what ORT may rewrite.
        options: provider, threads and custom operators.
        optimized_path: where ORT should also write the graph it really runs.
        data_folder: of a serialized model, where its external data lie.

    Raises:
        ModelError: ORT cannot load the model, or an input or output is no tensor of numpy's own types.
        SpecError: the provider is not there, or a custom operator library cannot be used.
    """
    run = options or RunOptions()
    provider = run.provider_name()

    def create(entries: Mapping[str, str]) -> ort.InferenceSession:
        folder = {} if data_folder is None else {_DATA_FOLDER: str(data_folder)}
        settings = run.settings({**entries, **folder})
        if optimized_path is not None:
            settings.optimized_model_filepath = str(optimized_path)
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, sess_options=settings, providers=[provider])

    entries = policy.options_for(model)
    is_large = _MAPPED.items() <= entries.items()
    try:
        opened = LargeSession(lambda: _create_unsaturated(create, entries)) if is_large else None
        session = opened or _create_unsaturated(create, entries)
        inputs, outputs = session.get_inputs(), session.get_outputs()
    except SpecError:
        raise
    except Exception as error:
        what = "the model" if isinstance(model, bytes) else repr(str(model))
        way_out = _NAME_IT if _UNKNOWN_OPERATOR in str(error) else _WAY_OUT
        raise ModelError(f"onnxruntime cannot load {what}: {_said(error)}. {way_out}") from error
    outs = _infos(outputs, "output")
    return Runner(session, _infos(inputs, "input"), tuple(output.name for output in outs), policy, run.at_once)


class LargeSession:
    """The session of a large model: awake until another large one is wanted, so that there is one at a time.

    Waking one takes little, since its weights are mapped and neither packed nor dequantized.

    Args:
        create: makes the session.
    """

    _awake: "ClassVar[weakref.ref[LargeSession] | None]" = None

    def __init__(self, create: Callable[[], ort.InferenceSession]) -> None:
        self._create = create
        self._session: ort.InferenceSession | None = None

    def wake(self) -> ort.InferenceSession:
        """Return the session, made again where it had to give way."""
        if self._session is None:
            LargeSession.rest()
            self._session = self._create()
            LargeSession._awake = weakref.ref(self)
        return self._session

    @classmethod
    def rest(cls) -> None:
        """Let go of the session that is awake, if any, until it is wanted again."""
        awake = None if cls._awake is None else cls._awake()
        if awake is not None:
            awake.sleep()

    def sleep(self) -> None:
        """Let go of it until it is wanted again."""
        self._session = None

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
        """Return the named outputs."""
        return list(self.wake().run(names, feeds))

    def get_inputs(self) -> Sequence[ort.NodeArg]:
        """Return the inputs of the model."""
        return list(self.wake().get_inputs())

    def get_outputs(self) -> Sequence[ort.NodeArg]:
        """Return the outputs of the model."""
        return list(self.wake().get_outputs())


def _create_unsaturated(
    create: Callable[[Mapping[str, str]], ort.InferenceSession], entries: Mapping[str, str]
) -> ort.InferenceSession:
    try:
        return create(entries)
    except Exception as error:
        if _CONVERTED_TWICE not in str(error):
            raise
    return create(SessionPolicy.EXACT.options)


_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
_EIGHT_BITS = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def without_integer_kernels(model: bytes | str | Path) -> bool:
    """Whether a QDQ model has nothing that ORT's CPU computes in integers: none of its weights or activations is 8-bit.

    ORT would then dequantize every weight again in every run (w8a16, w4a8: 1.5 to 2 times slower). A file that cannot
    be parsed is left to ORT to complain about.
    """
    graph = _graph(model)
    return graph is not None and _lacks_integer_kernels(graph)


def _lacks_integer_kernels(graph: onnx.GraphProto) -> bool:
    stored = {t.name: t for t in graph.initializer}
    quantized = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    activations = {
        stored[n.input[2]].data_type for n in quantized.values() if len(n.input) > 2 and n.input[2] in stored
    }
    weights = {
        stored[n.input[0]].data_type
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in stored and len(stored[n.input[0]].dims) > 1
    }
    return bool(activations) and (not activations & _EIGHT_BITS or (bool(weights) and not weights & _EIGHT_BITS))


def _graph(model: bytes | str | Path) -> onnx.GraphProto | None:
    try:
        if isinstance(model, bytes):
            return onnx.load_model_from_string(model).graph
        return onnx.load(str(model), load_external_data=False).graph
    except (DecodeError, OSError):
        return None


def _float_bytes(graph: onnx.GraphProto) -> int:
    """Return what the constants of a graph take in float32."""
    return sum(4 * math.prod(tensor.dims) for tensor in graph.initializer)


_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_NUMPY_TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(string)": "object",
    **{f"tensor({name})": name for name in ("bool", *_INTEGERS)},
}  # fmt: skip
"""What ORT takes from numpy and gives to it; bfloat16, float8, 4-bit integers, sequences and maps are not among it."""


def _infos(args: Sequence[ort.NodeArg], kind: str) -> tuple[InputInfo, ...]:
    for arg in args:
        if arg.type not in _NUMPY_TYPES:
            raise ModelError(
                f"The {kind} {arg.name!r} of the model has the type {arg.type}: fewbits feeds and reads tensors of "
                f"numpy's own types only. Export the model with such {kind}s."
            )
    return tuple(InputInfo(arg.name, np.dtype(_NUMPY_TYPES[arg.type]), tuple(arg.shape)) for arg in args)


_UNKNOWN_OPERATOR = "is not a registered function/op"
_NAME_IT = (
    "fewbits runs only what onnxruntime runs: name the library of your own operators with --custom-op-library, or "
    "export the model without it."
)
_WAY_OUT = (
    f"fewbits runs only what onnxruntime runs: export the model without it, or try a newer one than {ort.__version__}."
)


def _said(error: Exception) -> str:
    """Return the first line of an ORT error without its codes and the file names of ORT's own sources."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ |[.\s]+$", "", line)
