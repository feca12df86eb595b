"""aimet-onnx as its users run it: batch norms folded, QuantizationSimModel with the HTP v73 configuration.

Run by benchmarks/peers/.venvs/aimet/bin/python. "min_max" and "tf_enhanced" (SQNR) are its two calibration schemes.
"""

import argparse
import time
from typing import Any

import common
import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.defs import QuantScheme, int4, int8, int16
from aimet_onnx.quantsim import QuantizationSimModel

import timing

TYPES = {"w8a8": (int8, int8), "w8a16": (int8, int16), "w4a8": (int4, int8)}
SCHEMES = {"min_max": QuantScheme.min_max, "tf_enhanced": QuantScheme.post_training_tf_enhanced}


def simulation(args: argparse.Namespace, scheme: str, feed: common.Feeds) -> QuantizationSimModel:
    """Return the simulation before calibration."""
    model = onnx.load(str(common.network(args).path))
    fold_all_batch_norms_to_weight(model)
    param, activation = TYPES[args.precision]
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
        actions[scheme] = simulation(args, scheme, feeds[0]).compute_encodings
        build[scheme] = time.perf_counter() - begin
    return {"build_s": build, "timings": common.measure(args, actions, feeds)}


def simulate(args: argparse.Namespace) -> dict[str, Any]:
    """Time the calibrated simulation against the float model."""
    feeds = common.single_samples(args)
    sim = simulation(args, "min_max", feeds[0])
    sim.compute_encodings(feeds[:8])
    actions = {args.precision: timing.forward(lambda feed: sim.session.run(None, feed))}
    return {"timings": common.measure(args, actions, feeds)}


def quantize(args: argparse.Namespace) -> dict[str, Any]:
    """Write the QDQ model that it exports to --model."""
    if args.model is None:
        raise SystemExit("quantize needs --model")
    feeds, begin = common.single_samples(args), time.perf_counter()
    sim = simulation(args, "min_max", feeds[0])
    sim.compute_encodings(feeds)
    onnx.save(sim.to_onnx_qdq(), str(args.model))
    return {"quantize_s": time.perf_counter() - begin}


if __name__ == "__main__":
    common.main(
        "aimet-onnx",
        {"calibrate": calibrate, "quantize": quantize, "simulate": simulate},
        ("aimet-onnx", "onnxruntime", "onnx", "numpy", "torch"),
    )
