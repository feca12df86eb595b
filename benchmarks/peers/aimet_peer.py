"""aimet-onnx as its users run it: batch norms folded, QuantizationSimModel with the HTP v73 configuration.

Run by benchmarks/peers/.venvs/aimet/bin/python. "min_max" and "tf_enhanced" (SQNR) are its two calibration schemes. A
simulation has one precision, so every precision is built and calibrated anew, and scored in the simulation itself. Its
guides recommend onnx-simplifier before: in the benchmarks' networks that finds nothing but the batch norms folded here.
"""

import argparse
import time
from typing import Any

import common
import numpy as np
import onnx
from aimet_onnx.analysis import analyze_per_layer_sensitivity
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.defs import QuantScheme, float16, int4, int8, int16
from aimet_onnx.quantsim import QuantizationSimModel

import timing

TYPES = {
    "w8a8": (int8, int8),
    "w8a16": (int8, int16),
    "w16a16": (int16, int16),
    "fp16": (float16, float16),
    "w4a8": (int4, int8),
}
SCHEMES = {"min_max": QuantScheme.min_max, "tf_enhanced": QuantScheme.post_training_tf_enhanced}


def simulation(args: argparse.Namespace, precision: str, scheme: str, feed: common.Feeds) -> QuantizationSimModel:
    """Return the simulation before calibration."""
    model = onnx.load(str(common.network(args).path))
    fold_all_batch_norms_to_weight(model)
    param, activation = TYPES[precision]
    return QuantizationSimModel(
        model,
        param_type=param,
        activation_type=activation,
        quant_scheme=SCHEMES[scheme],
        config_file="htp_v73",
        dummy_input=feed,
        providers=["CPUExecutionProvider"],
        session_options_kwargs={"intra_op_num_threads": args.threads},
    )


def calibrate(args: argparse.Namespace) -> dict[str, Any]:
    """Time compute_encodings of both schemes against float passes; building the simulations is timed apart."""
    feeds = common.single_samples(args)
    actions: dict[str, timing.Action] = {}
    build: dict[str, float] = {}
    for scheme in SCHEMES:
        begin = time.perf_counter()
        actions[scheme] = simulation(args, args.precision, scheme, feeds[0]).compute_encodings
        build[scheme] = time.perf_counter() - begin
    return {"build_s": build, "timings": common.measure(args, actions, feeds)}


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """Time the calibrated simulation against the float model."""
    feeds = common.single_samples(args)
    sim = simulation(args, args.precision, "min_max", feeds[0])
    sim.compute_encodings(feeds[:8])
    actions = {args.precision: timing.forward(lambda feed: sim.session.run(None, feed))}
    return {"timings": common.measure(args, actions, feeds)}


def quantize(args: argparse.Namespace) -> dict[str, Any]:
    """Write the QDQ model that it exports to --model."""
    if args.model is None:
        raise SystemExit("quantize needs --model")
    feeds, begin = common.single_samples(args), time.perf_counter()
    sim = simulation(args, args.precision, "min_max", feeds[0])
    sim.compute_encodings(feeds)
    onnx.save(sim.to_onnx_qdq(), str(args.model))
    return {"quantize_s": time.perf_counter() - begin}


def analyze(args: argparse.Namespace) -> dict[str, Any]:
    """Time its per-layer sensitivity analysis of a calibrated simulation, and return the SQNR of every layer."""
    feeds = common.single_samples(args)
    sim = simulation(args, args.precision, "tf_enhanced", feeds[0])
    sim.compute_encodings(feeds)
    float_model = common.open_ort(common.network(args).path, args.threads)
    reference = [float_model.run(None, feed) for feed in feeds]

    def sqnr_db(session: Any) -> float:
        """Return the mean SQNR of the outputs, as its guides suggest to judge a layer by."""
        signal = noise = 0.0
        for feed, wanted in zip(feeds, reference, strict=True):
            for given, right in zip(session.run(None, feed), wanted, strict=True):
                signal, noise = signal + float((right**2).sum()), noise + float(((given - right) ** 2).sum())
        return float(10 * np.log10(signal / max(noise, 1e-30)))

    begin = time.perf_counter()
    found = analyze_per_layer_sensitivity(sim, sqnr_db)
    seconds = time.perf_counter() - begin
    return {
        "analyze_s": seconds,
        "layers": len(found),
        "sqnr_db": {name: float(value) for name, value in found.items()},
    }


def make(job: common.Job) -> common.Quantized:
    """Build and calibrate one simulation."""
    outputs = [o.name for o in onnx.load(str(common.network(job.args).path)).graph.output]
    with job.watch("build"):
        sim = simulation(job.args, job.precision, job.scheme, job.feeds[0])
    with job.watch("calibrate"):
        sim.compute_encodings(job.feeds)
    names = {*sim.activation_names, *sim.input_quantizers_name}
    enabled = sum(q.enabled for name, q in sim.qc_quantize_op_dict.items() if name in names)
    return common.Quantized(lambda feeds: dict(zip(outputs, sim.session.run(None, feeds), strict=True)), enabled)


if __name__ == "__main__":
    common.main(
        "aimet",
        "aimet-onnx",
        {
            "analyze": analyze,
            "calibrate": calibrate,
            "quantize": quantize,
            "score": lambda args: common.score(args, make),
            "simulate": simulate,
        },
        ("aimet-onnx", "onnxruntime", "onnx", "numpy", "torch"),
    )
