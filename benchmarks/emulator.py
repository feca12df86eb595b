"""Every network at every precision on Qualcomm's HTP emulator, as `fewbits verify --on qnn-htp` runs it.

Outputs against the file executed exactly as written (fp16: against the torch executor), the operators that differ
where an output fails, and the scores of four networks on the emulator beside those of the simulation. Needs the extras
`qnn` and `torch`.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import fewbits
import record
from fewbits.errors import FewbitsError
from fewbits.reporting.record import plain
from fewbits.runtime.session import RunOptions
from networks import NETWORKS, Network, Predict, assets

PRECISIONS = ("w8a8", "w8a16", "w4a8", "w16a16", "fp16")
RESNET20 = Network("resnet20", "cifar10_resnet20.onnx", "cifar10_resnet", True, 0.3, 81.22)
SCORED = ("w8a8", "w8a16")


def _first(batches: Iterable[Any], samples: int) -> Iterable[Any]:
    """Return the first batches of a labelled set, as many as hold `samples`."""
    size = len(next(iter(next(iter(batches()))[0].values())))  # type: ignore[operator]
    return islice(batches(), samples // size)  # type: ignore[operator]


def scores(samples: dict[str, int]) -> dict[str, Callable[[Predict], float]]:
    """Return network -> its score on a subset."""
    a = assets()
    return {
        "resnet20": lambda p: float(a.top1(p, a.cifar(batch=50, n=samples["resnet20"]))),
        "kwt1": lambda p: float(a.top1(p, _first(lambda: a.speech(batch=25), samples["kwt1"]))),
        "imdn": lambda p: float(a.set5_psnr(p)),
        "fastestdet": lambda p: float(a.coco_map50(p)),
    }


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=["resnet20", *NETWORKS])
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--scored", nargs="*", default=list(SCORED))
    parser.add_argument("--soc", default="sm8550")
    parser.add_argument("--samples", type=int, default=64, help="calibration samples")
    parser.add_argument("--cifar", type=int, default=1000)
    parser.add_argument("--speech", type=int, default=500)
    args = parser.parse_args()
    found = record.start(f"Qualcomm's HTP emulator ({args.soc}), {args.samples} calibration samples")
    results: dict[str, Any] = {}
    for name in args.networks:
        net = RESNET20 if name == "resnet20" else NETWORKS[name]
        results[name] = {precision: one(net, precision, args) for precision in args.precisions}
    record.save("emulator", args, found, results)


def one(net: Network, precision: str, args: Namespace) -> dict[str, Any]:
    """Return what the emulator makes of one network in one precision."""
    metrics = scores({"resnet20": args.cifar, "kwt1": args.speech})
    metric = metrics.get(net.name) if precision in args.scored else None
    with tempfile.TemporaryDirectory() as scratch:
        folder, options = Path(scratch) / "out", RunOptions(threads=args.threads)
        try:
            fewbits.quantize(
                net.path, precision=precision, data=lambda: net.calibration(args.samples), samples=args.samples,
                ranges="mse", metric="sqnr", eval_samples=2, output=folder, run_options=options,
            )  # fmt: skip
            made = fewbits.verify(
                folder, on="qnn-htp", soc=args.soc, samples=1, metric=metric,
                data=None if metric is None else (lambda: net.calibration(1)),
            )  # fmt: skip
        except FewbitsError as error:
            print(f"{net.name:12} {precision:7} {error}", flush=True)
            return {"refused": str(error)}
    found: dict[str, Any] = plain(asdict(made.certificate))
    for output, row in found["outputs"].items():
        print(f"{net.name:12} {precision:7} {output}: {row['place_db'] or 999:.1f} dB to the file, the file "
              f"{row['float_db'] or 999:.1f} dB to float: {record.verdict(row['passed'])}", flush=True)  # fmt: skip
    if found["score"]:
        score = found["score"]
        print(f"  score: float {score['float_']:.2f}, simulation {score['sim']:.2f}, emulator {score['place']:.2f}",
              flush=True)  # fmt: skip
    if found["localized"]:
        print(f"  {said(found['localized'])}", flush=True)
    kept = ("passed", "samples", "reference", "outputs", "score", "localized", "wrong_types")
    return {name: found[name] for name in kept}


def said(found: dict[str, Any]) -> str:
    """Return where it differs, in a line."""
    worst = found["tensors"][0]
    kinds = sorted(found["tapped_by_op"].items(), key=lambda row: -(row[1] if row[1] is not None else 999))
    return (
        f"{found['db']:.1f} dB, {found['tapped_db'] or 999:.1f} dB unfused (best: {kinds[0][0]} "
        f"{kinds[0][1] or 999:.1f}); worst alone: {worst['op']} {worst['node']} {worst['alone_db'] or 999:.1f} dB"
    )


if __name__ == "__main__":
    main()
