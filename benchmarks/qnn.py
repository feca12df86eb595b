"""Every network at every precision through lint and Qualcomm's compiler for six chips.

What lint says beforehand is held against what the compiler does: refusals that lint did not announce, and findings of
models that compile, are counted. Estimates are the compiler's own. The emulator: `emulator.py`. Needs the extra `qnn`.
"""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import fewbits
import record
from fewbits.errors import FewbitsError
from fewbits.graph.save import save_model
from fewbits.runtime.session import RunOptions
from fewbits.spec.soc import find_soc
from fewbits.workflow.compile import open_dims_of
from networks import NETWORKS, Network

PRECISIONS = ("w8a8", "w8a16", "w4a8", "w16a16", "fp16")
CHIPS = ("sm8450", "sm8550", "sm8650", "sm8750", "sm8850", "qcs6490")
ESTIMATED = ("soc77", "soc72")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--chips", nargs="*", default=list(CHIPS))
    parser.add_argument("--estimated", nargs="*", default=["mobilenetv2", "kwt1", "fastestdet"])
    parser.add_argument("--samples", type=int, default=64, help="calibration samples")
    args = parser.parse_args()
    found = record.start(f"Qualcomm's compiler, {args.samples} calibration samples")
    results = {name: network(NETWORKS[name], args) for name in args.networks}
    rows = [row for result in results.values() for row in result["compiled"]]
    surprises = [row for row in rows if row["refused"] and not row["announced"]]
    alarms = [row for row in rows if row["announced"] and not row["refused"]]
    print(f"{len(rows)} models: {sum(not row['refused'] for row in rows)} compiled with every type as planned, "
          f"{len(surprises)} refused without lint having said so, {len(alarms)} false alarms")  # fmt: skip
    record.save("qnn", args, found, results)


def network(net: Network, args: Namespace) -> dict[str, Any]:
    """Return what became of one network."""
    found: dict[str, Any] = {"compiled": [], "estimated": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for target in dict.fromkeys(find_soc(chip).target for chip in args.chips):
            chips = [chip for chip in args.chips if find_soc(chip).target == target]
            calibration = fewbits.calibrate(
                net.path, data=lambda: net.calibration(args.samples), target=target, samples=args.samples,
                run_options=RunOptions(threads=args.threads),
            )  # fmt: skip
            for precision in args.precisions:
                path = Path(scratch) / f"{target}.{precision}.onnx"
                try:
                    save_model(fewbits.quantize_calibrated(calibration, precision, ranges="mse").model, path)
                except FewbitsError as error:
                    rows = [{"announced": True, "refused": True, "why": str(error)} for _ in chips]
                else:
                    rows = [compiled(path, chip, dims_of(path, calibration)) for chip in chips]
                    estimate(net, args, found, path, calibration=calibration, precision=precision)
                found["compiled"] += [
                    {"chip": chip, "precision": precision, **row} for chip, row in zip(chips, rows, strict=True)
                ]
    for precision in args.precisions:
        mine = {row["chip"]: row for row in found["compiled"] if row["precision"] == precision}
        print(f"{net.name:12} {precision:7}" + " ".join(f"{c}: {said(row)}" for c, row in mine.items()), flush=True)
    return found


def dims_of(path: Path, calibration: fewbits.Calibration) -> dict[str, int]:
    """Return the sizes that one sample gives to the open dimensions."""
    feeds = next(calibration.subject.data.batches(1, 1)).feeds
    return {dim: feeds[name].shape[axis] for name, axes in open_dims_of(path).items() for axis, dim in axes.items()}


def compiled(path: Path, chip: str, dims: dict[str, int]) -> dict[str, Any]:
    """Return whether lint announced trouble, and what the compiler did."""
    findings = fewbits.lint(path, soc=chip).findings
    row = {"announced": bool(findings), "findings": sorted({finding.rule for finding in findings})}
    try:
        made = fewbits.compile(path, soc=chip, dims=dims)
    except FewbitsError as error:
        return {**row, "refused": True, "why": str(error)}
    checked = {"operators": made.types.checked, "bytes": made.binary_bytes}
    return {**row, "refused": not made.passed, "why": [list(w) for w in made.types.wrong[:4]], **checked}


def said(row: dict[str, Any]) -> str:
    """Return one word for a row."""
    if not row["refused"]:
        return "FALSE ALARM" if row["announced"] else "ok"
    return "refused, announced" if row["announced"] else "REFUSED"


def estimate(
    net: Network,
    args: Namespace,
    found: dict[str, Any],
    path: Path,
    *,
    calibration: fewbits.Calibration,
    precision: str,
) -> None:
    """Ask for estimates, once per precision: under the rules of v73."""
    if not path.name.startswith("qnn-htp-v73"):
        return
    if net.name in args.estimated:
        for chip in ESTIMATED:
            try:
                made = fewbits.estimate(path, soc=chip, dims=dims_of(path, calibration)).estimate
                found["estimated"].setdefault(chip, {})[precision] = [made.latency_us, made.low_us, made.high_us]
            except FewbitsError as error:
                found["estimated"].setdefault(chip, {})[precision] = str(error)
            print(f"  {net.name} {precision} {chip}: {found['estimated'][chip][precision]} us", flush=True)


if __name__ == "__main__":
    main()
