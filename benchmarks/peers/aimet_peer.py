"""aimet-onnx as its users run it: batch norms folded, QuantizationSimModel with the HTP v73 configuration.

Run by benchmarks/peers/.venvs/aimet/bin/python. "min_max" and "tf_enhanced" (SQNR) are its two calibration schemes. A
simulation has one precision, so every precision is built and calibrated anew, and scored in the simulation itself. Its
guides recommend onnx-simplifier before: in the benchmarks' networks that finds nothing but the batch norms folded here.
"""

import argparse
import time
from typing import Any

import common
import onnx
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
            "calibrate": calibrate,
            "quantize": quantize,
            "score": lambda args: common.score(args, make),
            "simulate": simulate,
        },
        ("aimet-onnx", "onnxruntime", "onnx", "numpy", "torch"),
    )
