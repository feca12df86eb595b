"""The models of the ONNX project's backend tests, and what becomes of each of them in fewbits."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase as Case

import fewbits
from fewbits import Calibration, FewbitsError, Quantized
from fewbits.artifact.names import ARTIFACT
from fewbits.numerics.metrics import sqnr_db
from fewbits.runtime.session import Arrays, RunOptions, SessionPolicy, open_session

PRECISIONS = ("w8a8", "fp16")
ALL_PRECISIONS = ("w8a8", "w8a16", "w4a8", "fp16")
FILE_SUITES = ("simple", "pytorch-operator", "pytorch-converted")
"""Suites whose models and samples are files of the installed onnx; "light" models have no samples."""
QUANTIZED, FLOAT, REFUSED = "quantized", "float", "refused"

Feeds = Mapping[str, Any]
_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


@dataclass(frozen=True)
class Outcome:
    """How one model ended in one precision.

    Attributes:
        case: name of the test case.
        precision: what was asked for.
        status: "quantized" (some node is, and the model runs), "float" (none is, and it runs) or "refused".
        reasons: why nodes stay in float, or the one sentence of the refusal.
        sqnr_db: of the worst float output against the float model; None where all are equal or there is none.
        breaches: what the model that came out does wrong; empty in a correct fewbits.
        left: (operator, kind of reason) of the nodes that stay in float.
    """

    case: str
    precision: str
    status: str
    reasons: tuple[str, ...] = ()
    sqnr_db: float | None = None
    breaches: tuple[str, ...] = ()
    left: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class FileCase:
    """One model of a suite of files.

    Attributes:
        name: of the test case.
        model: the model.
        feeds: a sample, by input.
        expected: what its authors say that the outputs are, in the order of the model; empty where nobody says.
    """

    name: str
    model: onnx.ModelProto
    feeds: Feeds
    expected: tuple[Any, ...] = ()


@cache
def all_cases() -> tuple[Case, ...]:
    """Return every node model that the installed onnx generates, with its inputs; the same ones in every process."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its samples divide by zero on purpose
        return tuple(collect_testcases(None))


def feeds_of(case: Case) -> dict[str, Any]:
    """Return the case's own inputs by name; tensors of types that numpy lacks as numpy holds them."""
    given = case.data_sets[0][0]
    names = [value.name for value in case.model.graph.input]
    return {
        name: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        for name, value in zip(names, given, strict=False)
    }


def file_cases(suite: str) -> Iterator[FileCase]:
    """Yield the models of a suite of files with their first sample; those of "light" get random numbers."""
    if suite == "light":
        for path in sorted((_DATA / suite).glob("*.onnx")):
            model = onnx.load(path)
            yield FileCase(path.stem, model, _random_feeds(model))
        return
    for folder in sorted((_DATA / suite).iterdir()):
        model = onnx.load(folder / "model.onnx")
        files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda path: int(path.stem[6:]))
        pairs = zip(_fed(model), files, strict=False)
        feeds = {value.name: _read(value, file) for value, file in pairs}
        outputs = enumerate(model.graph.output)
        expected = tuple(_read(value, folder / "test_data_set_0" / f"output_{i}.pb") for i, value in outputs)
        yield FileCase(folder.name, model, feeds, expected)


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _read(value: onnx.ValueInfoProto, file: Path) -> Any:
    if value.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(file.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


def _random_feeds(model: onnx.ModelProto) -> Feeds:
    rng, feeds = np.random.default_rng(0), {}
    for value in _fed(model):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.uniform(0, 1, shape).astype(np.float32)
    return feeds


def with_weights(case: Case) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the case with all its inputs but the first stored as initializers, and the feeds that are left."""
    feeds, model = feeds_of(case), onnx.ModelProto()
    model.CopyFrom(case.model)
    stored = [n for n in list(feeds)[1:] if isinstance(feeds[n], np.ndarray | np.generic)]
    kept = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(feeds.pop(n)), n) for n in stored)
    return model, feeds


def take_in(
    name: str, model: onnx.ModelProto, feeds: Feeds, output: Path, precisions: Sequence[str] = PRECISIONS
) -> list[Outcome]:
    """Quantize to the first precision with the verb, to the others from the same calibration; run what comes out.

    A `FewbitsError` is an outcome; every other exception is raised.
    """
    first, *others = precisions
    output.parent.mkdir(parents=True, exist_ok=True)
    options = {"data": [feeds], "run_options": RunOptions(threads=1)}
    outcomes, calibration = [], None
    try:
        result = fewbits.quantize(model, precision=first, output=output, **options)
        calibration = result.calibration
        outcomes.append(_judge(name, first, calibration, result.quantized, output / ARTIFACT))
    except FewbitsError as error:
        left = tuple(f"leaves {path.name}" for path in output.parent.iterdir())
        outcomes.append(Outcome(name, first, REFUSED, (str(error),), breaches=left))
    for other in others:
        try:
            calibration = calibration or fewbits.calibrate(model, **options)
            made = fewbits.quantize_calibrated(calibration, other)
            outcomes.append(_judge(name, other, calibration, made, made.to_bytes()))
        except FewbitsError as error:
            outcomes.append(Outcome(name, other, REFUSED, (str(error),)))
    return outcomes


def _judge(name: str, precision: str, calibration: Calibration, made: Quantized, model: bytes | Path) -> Outcome:
    """Run the quantized model in fewbits' session and in a user's own, on the samples that calibration read."""
    options = calibration.subject.options
    runner = open_session(model, options=options)
    plain = open_session(model, options=options, policy=SessionPolicy.PLAIN)
    (batch,) = calibration.subject.data.batches()
    wanted, given = calibration.subject.runner(batch.feeds), runner(batch.feeds)
    breaches = [*_unlike(wanted, given), *_unlike(wanted, plain(batch.feeds))]
    left = [node for node, plan in made.plan.nodes.items() if str(plan.precision) == "fp32"]
    breaches += [f"no reason for {node}" for node in left if not made.plan.nodes[node].reason]
    status = FLOAT if len(left) == len(made.plan.nodes) else QUANTIZED
    why = frozenset((made.plan.nodes[node].op, kind_of(made.plan.nodes[node].reason)) for node in left)
    return Outcome(name, precision, status, tuple(made.declined), _worst_db(wanted, given), tuple(breaches), why)


def _unlike(wanted: Arrays, given: Arrays) -> list[str]:
    """Say which outputs have another type or shape than in the float model."""
    pairs = [(name, [f"{one.dtype}{list(one.shape)}" for one in (wanted[name], given[name])]) for name in wanted]
    return [f"{name} is {have}, not {want}" for name, (want, have) in pairs if want != have]


def _worst_db(wanted: Arrays, given: Arrays) -> float | None:
    """Return the SQNR of the worst float output; no grid holds the infinities of a mask, which are left out."""
    found = []
    for name, reference in wanted.items():
        kept = np.isfinite(reference) if reference.dtype.kind == "f" else np.zeros(0, bool)
        if kept.any() and not np.array_equal(reference[kept], given[name][kept]):
            found.append(sqnr_db(reference[kept], given[name][kept]))
    return min(found, default=None)


def kind_of(sentence: str) -> str:
    """Return a reason or a message without what it names: equal for all that fail alike."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\(\d+\)", "_", sentence)
    return re.sub(r"(?<![\w.])\d+(\.\d+)?(e[+-]\d+)?", "#", text)[:160]
