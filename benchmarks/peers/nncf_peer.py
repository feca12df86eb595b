"""NNCF as its users run it on ONNX models: nncf.quantize, w8a8 only, with the model type that its guides ask for.

Run by benchmarks/peers/.venvs/nncf/bin/python. "default" leaves the preset to it (mixed for transformers, else
performance); "mixed" makes activations asymmetric; "accurate bias" is mixed with the slow bias correction, not the fast
one. On ONNX it has no other precision that quantizes activations to integers. Its sessions take every core.
"""

import argparse
from typing import Any

import common
import nncf
import onnx

SCHEMES: dict[str, dict[str, Any]] = {
    "default": {},
    "mixed": {"preset": nncf.QuantizationPreset.MIXED},
    "accurate bias": {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False},
}
TRANSFORMERS = ("kwt1", "stories")


def make(job: common.Job) -> common.Quantized:
    """Quantize; statistics, bias correction and rewriting are one call of it."""
    with job.watch("build"):
        model = onnx.load(str(common.network(job.args).path))
    with job.watch("calibrate"):
        model = nncf.quantize(
            model,
            nncf.Dataset(job.feeds),
            subset_size=job.args.samples,
            model_type=nncf.ModelType.TRANSFORMER if job.args.network in TRANSFORMERS else None,
            **SCHEMES[job.scheme],
        )
    return common.scorable(job, model)


def score(args: argparse.Namespace) -> dict[str, Any]:
    """Score every scheme asked for."""
    return common.score(args, make)


if __name__ == "__main__":
    common.main("nncf", "nncf", {"score": score}, ("nncf", "onnxruntime", "onnx", "numpy"))
