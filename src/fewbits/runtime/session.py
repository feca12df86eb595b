"""Running models in ONNX Runtime, under one named policy."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from fewbits.errors import DataError, ModelError, SpecError
from fewbits.runtime.data.types import InputInfo
from fewbits.runtime.processor import saturates

Arrays = dict[str, npt.NDArray[np.generic]]

# Otherwise ORT runs int4/int8-weight MatMul under wider activations as MatMulNBits with 8-bit activations.
_ALWAYS = {"session.qdq_matmulnbits_accuracy_level": "1"}
# Otherwise 8-bit kernels saturate on x86 processors without VNNI (see `processor.saturates`). Elsewhere it changes no
# bit, but makes them slower.
_UNSATURATED = {"session.x64quantprecision": "1"}
# What ORT says when, under that entry, two nodes share one int8 weight: it converts the weight twice.
_CONVERTED_TWICE = "Attempt to replace the existing tensor"


class SessionPolicy(Enum):
    """How ORT may rewrite the graph: the value holds its session options.

    DEFAULT: for speed; 8-bit weights and activations become integer kernels. Where a model has none of those, weights
        are dequantized once and float kernels run (see `without_integer_kernels`). Where ORT cannot keep its integer
        kernels from saturating on this processor, the model runs as under EXACT.
    EXACT: float optimizations only; every QuantizeLinear and DequantizeLinear is executed as written.
    PLAIN: ORT's own defaults, as a user's session has them.
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
        """Session config entries of the policy for one model."""
        if self is SessionPolicy.DEFAULT and without_integer_kernels(model):
            return {**self.options, "session.disable_quant_qdq": "1"}
        return self.options


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where and how wide ORT runs.

    Attributes:
        provider: cpu, cuda, or any execution provider's own name.
        threads: intra-op threads; 0 lets ORT choose.
    """

    provider: str = "cpu"
    threads: int = 0

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


@dataclass(frozen=True, slots=True)
class Runner:
    """A loaded model: call it with feeds, get outputs by name."""

    session: ort.InferenceSession
    inputs: tuple[InputInfo, ...]
    output_names: tuple[str, ...]
    policy: SessionPolicy = field(default=SessionPolicy.DEFAULT)

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
) -> Runner:
    """Load a model into ORT.

    Args:
        model: serialized model, or the path of a file (external data are found beside it).
        policy: what ORT may rewrite.
        options: provider and threads.
        optimized_path: where ORT should also write the graph it really runs.

    Raises:
        ModelError: ORT cannot load the model, or an input or output is no tensor of numpy's own types.
        SpecError: the provider is not there.
    """
    run = options or RunOptions()
    provider = run.provider_name()

    def create(entries: Mapping[str, str]) -> ort.InferenceSession:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = run.threads
        settings.log_severity_level = 4  # errors come as exceptions, and need not be printed too
        for key, value in entries.items():
            settings.add_session_config_entry(key, value)
        if optimized_path is not None:
            settings.optimized_model_filepath = str(optimized_path)
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, sess_options=settings, providers=[provider])

    try:
        session = _create_unsaturated(create, policy.options_for(model))
    except Exception as error:
        what = "the model" if isinstance(model, bytes) else repr(str(model))
        raise ModelError(f"onnxruntime cannot load {what}: {_said(error)}. {_WAY_OUT}") from error
    inputs, outputs = _infos(session.get_inputs(), "input"), _infos(session.get_outputs(), "output")
    return Runner(session, inputs, tuple(output.name for output in outputs), policy)


def _create_unsaturated(
    create: Callable[[Mapping[str, str]], ort.InferenceSession], entries: Mapping[str, str]
) -> ort.InferenceSession:
    try:
        return create(entries)
    except Exception as error:
        if _CONVERTED_TWICE not in str(error):
            raise
    return create(SessionPolicy.EXACT.options)


_EIGHT_BITS = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def without_integer_kernels(model: bytes | str | Path) -> bool:
    """Whether a QDQ model has nothing that ORT's CPU computes in integers: none of its weights or activations is 8-bit.

    ORT would then dequantize every weight again in every run (w8a16, w4a8: 1.5 to 2 times slower). A file that cannot
    be parsed is left to ORT to complain about.
    """
    try:
        graph = _parse(model).graph
    except (DecodeError, OSError):
        return False
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


def _parse(model: bytes | str | Path) -> onnx.ModelProto:
    if isinstance(model, bytes):
        return onnx.load_model_from_string(model)
    return onnx.load(str(model), load_external_data=False)


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


_WAY_OUT = (
    f"fewbits runs only what onnxruntime runs: export the model without it, or try a newer one than {ort.__version__}."
)


def _said(error: Exception) -> str:
    """Return the first line of an ORT error without its codes and the file names of ORT's own sources."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ |[.\s]+$", "", line)
