"""Speed of simulations against float ONNX Runtime and the peers, and of exported models against ONNX Runtime's own."""

import tempfile
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

import pipeline
import record
import timing
from fewbits.runtime.session import Runner, RunOptions, SessionPolicy, open_session
from networks import NETWORKS, Network
from run_peer import run_peer

LIMIT_SPEED = {"w8a8": 1.5, "w8a16": 0.4, "w4a8": 0.4}
EXPORTED = ("mobilenetv1", "mobilenetv2", "fastestdet")
INTEGER_CONVS = ("QLinearConv", "ConvInteger")
CALIBRATION = 64


def main() -> None:
    parser = record.parser(__doc__ or "", repeats=9)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenetv2")
    parser.add_argument("--images", type=int, default=32, help="images per round")
    parser.add_argument("--target", default=pipeline.TARGET, help="of the simulations")
    parser.add_argument("--export-target", default="ort-cpu", help="of the exported models")
    parser.add_argument("--exported", nargs="*", default=list(EXPORTED))
    args = parser.parse_args()
    found = record.start(f"simulation: {args.network}, batch 1, {args.threads} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = simulations(args, folder)
        aimet = run_peer(
            "aimet", "simulate", network=args.network, samples=args.images, threads=args.threads, repeats=args.repeats
        )
        show_simulations(ours, aimet)
        exported = {n: exported_pair(args, NETWORKS[n], folder) for n in args.exported}
    show_exported(exported)
    record.save("simulation", args, found, {"simulations": ours, "aimet": aimet, "exported": exported})


def build(args: Namespace, network: Network, target: str, precisions: tuple[str, ...]) -> dict[str, bytes]:
    """Return fewbits' QDQ models, calibrated once."""
    observer = pipeline.open_observer(network, target=target, threads=args.threads)
    statistics = observer.observe(pipeline.batches(network.calibration(CALIBRATION)))
    return {p: observer.build(statistics, p) for p in precisions}


def ort_model(args: Namespace, network: Network, folder: Path) -> Path | None:
    """Return the w8a8 model that onnxruntime.quantization writes, or None where it is not installed."""
    path = folder / f"{network.name}_ort.onnx"
    answer = run_peer(
        "ort", "quantize", network=network.name, samples=CALIBRATION, threads=args.threads, model=path
    )  # fmt: skip
    return None if "missing" in answer else path


def simulations(args: Namespace, folder: Path) -> dict[str, Any]:
    """Time float, fewbits' simulations and ONNX Runtime's quantized model in one process, in turn."""
    network, options = NETWORKS[args.network], RunOptions(threads=args.threads)
    runners = {"float": open_session(network.path, options=options)}
    for precision, model in build(args, network, args.target, tuple(LIMIT_SPEED)).items():
        runners[f"fewbits {precision}"] = open_session(model, policy=SessionPolicy.DEFAULT, options=options)
    peer = ort_model(args, network, folder)
    if peer is not None:
        runners["ort w8a8"] = open_session(peer, options=options)
    return timed(args, network, runners, baseline="float")


def timed(args: Namespace, network: Network, runners: dict[str, Runner], *, baseline: str) -> dict[str, Any]:
    feeds = pipeline.single_samples(network, args.images)
    actions = {name: timing.forward(runner) for name, runner in runners.items()}
    return timing.summarize(timing.interleave(actions, feeds, repeats=args.repeats), len(feeds), baseline=baseline)


def exported_pair(args: Namespace, network: Network, folder: Path) -> dict[str, Any]:
    """Time the two w8a8 files as a user's own session runs them, and count the kernels that they end in."""
    sources: dict[str, bytes | Path] = {}
    peer = ort_model(args, network, folder)
    if peer is not None:
        sources["ort"] = peer
    sources["fewbits"] = build(args, network, args.export_target, ("w8a8",))["w8a8"]
    options, runners, kernels = RunOptions(threads=args.threads), {}, {}
    for name, source in sources.items():
        optimized = folder / f"{network.name}_{name}_optimized.onnx"
        open_session(source, policy=SessionPolicy.PLAIN, options=options, optimized_path=optimized)
        kernels[name] = kernel_counts(optimized)
        runners[name] = open_session(source, policy=SessionPolicy.PLAIN, options=options)
    baseline = next(iter(runners))
    return {"timings": timed(args, network, runners, baseline=baseline), "kernels": kernels}


def kernel_counts(path: Path) -> dict[str, Any]:
    """Say how many convolutions of an optimized graph are integer, which are not, and what else runs."""
    nodes = onnx.load(str(path)).graph.node
    counts = Counter(n.op_type for n in nodes)
    floats = [n.output[0] for n in nodes if "Conv" in n.op_type and n.op_type not in INTEGER_CONVS]
    return {
        "integer_convs": sum(counts[k] for k in INTEGER_CONVS),
        "float_convs": floats,
        "quantize": counts["QuantizeLinear"],
        "dequantize": counts["DequantizeLinear"],
        "nodes": dict(counts.most_common()),
    }


def show_simulations(ours: dict[str, Any], aimet: dict[str, Any]) -> None:
    """Print speeds: the inverse of the ratios of time."""
    rows: list[tuple[object, ...]] = []
    for name, t in ours.items():
        limit = LIMIT_SPEED.get(name.removeprefix("fewbits "))
        word = record.verdict(1 / t["ratio"] >= limit) if limit else ""
        rows.append((name, t["images_per_s"], 1 / t["ratio"], 1 / t["paired"], limit, word))
    for name, t in aimet.get("timings", {}).items():
        rows.append((f"aimet {name}", t["images_per_s"], 1 / t["ratio"], 1 / t["paired"], None, ""))
    print("speed; ratios to the float model in the same process (aimet: its own)")
    record.table(("model", "images/s", "x float", "x paired", "limit", ""), rows)


def show_exported(exported: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for network, pair in exported.items():
        for name, t in pair["timings"].items():
            k = pair["kernels"][name]
            word = record.verdict(t["ratio"] <= 1.0) if name == "fewbits" and len(pair["timings"]) > 1 else ""
            convs = (k["integer_convs"], len(k["float_convs"]), k["quantize"], k["dequantize"])
            rows.append((network, name, t["images_per_s"], 1 / t["ratio"], 1 / t["paired"], *convs, word))
    print("exported w8a8 models in a user's own session; speed against onnxruntime.quantization's, optimized graph")
    header = ("network", "by", "images/s", "x ort", "x paired", "integer Conv", "float Conv", "Q", "DQ", "")
    record.table(header, rows)
    for network, pair in exported.items():
        left = pair["kernels"]["fewbits"]["float_convs"]
        if left:
            print(f"{network}: float convolutions of fewbits: {', '.join(left)}")


if __name__ == "__main__":
    main()
