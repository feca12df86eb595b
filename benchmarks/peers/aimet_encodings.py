"""Exchange of encodings with aimet-onnx: write its files and what its simulation answers, or load ours into it.

Run by benchmarks/peers/.venvs/aimet/bin/python.

export FOLDER --network N --precision P --weights per-channel|blocks|lpbq: writes model.onnx, model.<version>.encodings
for each version, model.qdq.onnx, feeds.npz and outputs.npz (of its simulation).
load FOLDER: reads FOLDER/model.float.onnx, model.encodings.json and feeds.npz, writes aimet.npz.
"""

import argparse
import json
import shutil
from pathlib import Path

import aimet_peer
import common
import numpy as np
import onnx
from aimet_onnx.quantsim import (
    QuantizationSimModel,
    load_encodings_to_sim,
    set_blockwise_quantization_for_weights,
    set_grouped_blockwise_quantization_for_weights,
)

VERSIONS = ("0.6.1", "1.0.0", "2.0.0")
BLOCKED = ("Gemm", "MatMul", "Conv")


def export(args: argparse.Namespace) -> None:
    feeds = common.single_samples(args)
    sim = aimet_peer.simulation(args, args.precision, args.scheme, feeds[0])
    if args.weights == "blocks":
        set_blockwise_quantization_for_weights(sim, BLOCKED, 4, True, args.block)
    elif args.weights == "lpbq":
        set_grouped_blockwise_quantization_for_weights(sim, BLOCKED, 4, 8, args.block)
    sim.compute_encodings(feeds)
    args.folder.mkdir(parents=True, exist_ok=True)
    refused = {}
    for version in VERSIONS:
        try:
            sim.export(str(args.folder), "model", encoding_version=version)
            shutil.move(args.folder / "model.encodings", args.folder / f"model.{version}.encodings")
        except Exception as error:
            refused[version] = f"{type(error).__name__}: {error}"
    (args.folder / "refused.json").write_text(json.dumps(refused))
    onnx.save(sim.to_onnx_qdq(), str(args.folder / "model.qdq.onnx"))
    save(args.folder / "feeds.npz", feeds[: args.compared])
    save(args.folder / "outputs.npz", answers(sim, feeds[: args.compared]))


def load(args: argparse.Namespace) -> None:
    model = onnx.load(str(args.folder / "model.float.onnx"))
    feeds = read(args.folder / "feeds.npz")
    param, activation = aimet_peer.TYPES[args.precision]
    sim = QuantizationSimModel(
        model, param_type=param, activation_type=activation, config_file="htp_v73", dummy_input=feeds[0],
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    load_encodings_to_sim(sim, str(args.folder / "model.encodings.json"), strict=False)
    save(args.folder / "aimet.npz", answers(sim, feeds))


def answers(sim: QuantizationSimModel, feeds: list[common.Feeds]) -> list[common.Feeds]:
    names = [output.name.removesuffix("_updated") for output in sim.model.model.graph.output]
    return [dict(zip(names, sim.session.run(None, feed), strict=True)) for feed in feeds]


def save(path: Path, runs: list[common.Feeds]) -> None:
    np.savez(path, **{f"{i}|{name}": array for i, run in enumerate(runs) for name, array in run.items()})


def read(path: Path) -> list[common.Feeds]:
    runs: dict[int, common.Feeds] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, _, name = key.partition("|")
            runs.setdefault(int(number), {})[name] = stored[key]
    return [runs[i] for i in sorted(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("export", "load"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", default="mobilenetv2")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--scheme", default="min_max")
    parser.add_argument("--weights", choices=("per-channel", "blocks", "lpbq"), default="per-channel")
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--compared", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    {"export": export, "load": load}[args.task](args)


if __name__ == "__main__":
    main()
