"""onnxruntime.quantization as its users run it: quant_pre_process, then quantize_static with QDQ and MinMax.

Run by benchmarks/peers/.venvs/ort/bin/python; weights are absmax, symmetric and per channel, activations asymmetric.
Its calibrator opens its own session and offers no choice of threads: it takes every core that the process may use.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process

import timing

TYPES = {
    "w8a8": (QuantType.QInt8, QuantType.QUInt8),
    "w8a16": (QuantType.QInt8, QuantType.QUInt16),
    "w16a16": (QuantType.QInt16, QuantType.QUInt16),
    "w4a8": (QuantType.QInt4, QuantType.QUInt8),
}


class Reader(CalibrationDataReader):
    """Feeds from memory."""

    def __init__(self, feeds: Sequence[timing.Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> timing.Feeds | None:
        """Return the next feed, or None."""
        return next(self._left, None)


def preprocess(args: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Return the preprocessed model and the seconds it took."""
    path, begin = folder / "preprocessed.onnx", time.perf_counter()
    quant_pre_process(str(common.network(args).path), str(path), auto_merge=True)
    return path, time.perf_counter() - begin


def write(precision: str, source: Path, target: Path, feeds: Sequence[timing.Feeds]) -> None:
    """Quantize `source` into `target`."""
    weight, activation = TYPES[precision]
    quantize_static(
        str(source),
        str(target),
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=activation,
        weight_type=weight,
        calibrate_method=CalibrationMethod.MinMax,
    )


def calibrate(args: argparse.Namespace) -> dict[str, Any]:
    """Time the MinMax calibrator alone, and quantize_static as a whole, against float passes."""
    feeds = common.single_samples(args)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, seconds = preprocess(args, folder)

        def collect(some: Sequence[timing.Feeds]) -> None:
            path = str(folder / "augmented.onnx")
            calibrator = create_calibrator(
                str(source), augmented_model_path=path, calibrate_method=CalibrationMethod.MinMax
            )
            calibrator.collect_data(Reader(some))
            calibrator.compute_data()

        actions: dict[str, timing.Action] = {
            "minmax": collect,
            "quantize_static": lambda some: write(args.precision, source, folder / "quantized.onnx", some),
        }
        return {"preprocess_s": seconds, "timings": common.measure(args, actions, feeds)}


def quantize(args: argparse.Namespace) -> dict[str, Any]:
    """Write the quantized model to --model."""
    if args.model is None:
        raise SystemExit("quantize needs --model")
    with tempfile.TemporaryDirectory() as name:
        source, seconds = preprocess(args, Path(name))
        begin = time.perf_counter()
        write(args.precision, source, args.model, common.single_samples(args))
        return {"preprocess_s": seconds, "quantize_s": time.perf_counter() - begin}


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """Time the quantized model against the float one."""
    with tempfile.TemporaryDirectory() as name:
        args.model = Path(name) / "quantized.onnx"
        quantize(args)
        session = common.open_ort(args.model, args.threads)
        actions = {args.precision: timing.forward(lambda feed: session.run(None, feed))}
        return {"timings": common.measure(args, actions, common.single_samples(args))}


def make(job: common.Job) -> common.Quantized:
    """Quantize as `write` does; the calibrator is part of quantize_static, so its stage is the whole of it."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "quantized.onnx"
        with job.watch("build"):
            source, _ = preprocess(job.args, Path(name))
        with job.watch("calibrate"):
            write(job.precision, source, target, job.feeds)
        return common.scorable(job, onnx.load(str(target)))


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)
    common.main(
        "ort",
        "onnxruntime.quantization",
        {
            "calibrate": calibrate,
            "quantize": quantize,
            "score": lambda args: common.score(args, make),
            "simulate": simulate,
        },
        ("onnxruntime", "onnx", "numpy"),
    )
