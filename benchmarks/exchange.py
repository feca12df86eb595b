"""Exchange of encodings with aimet-onnx, both ways and in every layout, and what the two simulations then answer.

theirs -> ours: aimet-onnx calibrates, exports encodings, its float model and its QDQ model; `fewbits apply-encodings`
and `fewbits import` take them. ours -> theirs: fewbits quantizes without bias correction (the float companion has the
original biases) and aimet-onnx loads float companion and encodings. SQNR between the simulations on the first
samples; and whether the entries of both files have the same keys and types.

At 8 bits two engines round some values to neighbouring steps, which spreads with depth: the yardstick is how far
aimet-onnx's own QDQ model in ONNX Runtime is from its own simulation.

Round trips: every network at every precision, and at a mix of four, through `import` and through `apply-encodings`,
compared with the file that was made, executed as written.
"""

import json
import subprocess
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

import fewbits
import record
from fewbits.artifact import names
from fewbits.artifact.encodings_versions import VERSIONS
from fewbits.deployment.certificate import sqnr
from fewbits.errors import FewbitsError
from fewbits.quantization.profile import Profile
from fewbits.runtime.session import SessionPolicy, open_session
from fewbits.workflow.writing import write_models
from networks import NETWORKS
from run_peer import PEERS

CASES = (
    ("kwt1", "w8a16", "per-channel"), ("kwt1", "w8a8", "per-channel"), ("kwt1", "w8a16", "blocks"),
    ("kwt1", "w8a16", "lpbq"), ("mobilenetv2", "w8a16", "per-channel"), ("mobilenetv2", "w8a8", "per-channel"),
    ("resnet56", "w8a16", "per-channel"), ("fastestdet", "w8a16", "per-channel"),
)  # fmt: skip
Runs = list[dict[str, Any]]

PRECISIONS = ("w8a8", "w8a16", "w16a16", "w4a8", "fp16")
MIX = ("w8a8", "w8a16", "fp16", "w4a8")


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    args = parser.parse_args()
    found = record.start("encodings exchanged with aimet-onnx, SQNR between the simulations in dB")
    results = []
    for network, precision, weights in CASES:
        case = {"network": network, "precision": precision, "weights": weights}
        row = {**case, **exchange(network, precision, weights, args)}
        results.append(row)
        print(f"{network:12} {precision:6} {weights:12} theirs -> ours {said(row['theirs'])}, their own QDQ file "
              f"{row['yardstick']}; ours -> theirs {said(row['ours'])}", flush=True)  # fmt: skip
    trips = {name: round_trips(name, args) for name in args.networks}
    record.save("exchange", args, found, {"rows": results, "round_trips": trips})


def round_trips(name: str, args: Namespace) -> dict[str, str]:
    """Return precision -> what import and apply-encodings make of a file: "equal", or the worst SQNR."""
    net, found = NETWORKS[name], {}
    calibration = fewbits.calibrate(net.path, data=lambda: net.calibration(args.samples), samples=args.samples)
    nodes = [str(node.name) for node in calibration.model.graph]
    mix = Profile.parse("w8a8", {node: MIX[(i // 3) % len(MIX)] for i, node in enumerate(nodes)})
    feeds = [dict(batch.feeds) for batch in calibration.subject.data.batches(1, 2)]
    for profile in (*PRECISIONS, mix):
        label = profile if isinstance(profile, str) else "mix"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            made = fewbits.quantize_calibrated(calibration, profile, ranges="minmax", bias_correction=False)
            write_models(folder, calibration, made)
            imported = fewbits.import_qdq(folder / names.ARTIFACT, output=folder / "imported")
            applied = fewbits.apply_encodings(folder / names.FLOAT, folder / names.ENCODINGS, output=folder / "applied")
            again = apart(run(folder / names.ARTIFACT, feeds), run(applied.output / names.ARTIFACT, feeds))
            there = "equal" if set(imported.parity.sqnr_db.values()) == {None} else str(imported.parity.sqnr_db)
            found[label] = f"{there}, {again}"
    print(f"{name:12} import, apply-encodings: {found}", flush=True)
    return found


def layout(document: dict[str, Any]) -> dict[str, list[str]]:
    """Return kind of entry -> its keys with their JSON types; fewbits' own top-level key is left out."""
    kinds = {"top": _keys({k: v for k, v in document.items() if k != "fewbits"})}
    for section in ("activation_encodings", "param_encodings", "encodings"):
        entries = document.get(section, [])
        for entry in entries if isinstance(entries, list) else [one for grids in entries.values() for one in grids]:
            kind = [section, entry.get("dtype"), entry.get("enc_type"), "blocks" if "block_size" in entry else ""]
            kind += ["axis"] if "axis" in entry else []
            keys = [key for key in _keys(entry) if not key.startswith("y_zero_point")]  # left out where it is 0
            kinds.setdefault(" ".join(str(part) for part in kind if part), keys)
    return kinds


def _keys(entry: dict[str, Any]) -> list[str]:
    def kind(value: Any) -> str:
        return "number" if type(value) in (int, float) else type(value).__name__

    found = [f"{key}: {kind(value)}" for key, value in entry.items()]
    return sorted(
        found + ([f"args.{key}" for key in _keys(entry["quantizer_args"])] if "quantizer_args" in entry else [])
    )


def said(found: dict[str, Any]) -> str:
    return ", ".join(f"{version} {value}" for version, value in found.items()) or "-"


def exchange(network: str, precision: str, weights: str, args: Namespace) -> dict[str, Any]:
    """Return the distances of one case."""
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Path(scratch) / "theirs"
        peer("export", theirs, network=network, precision=precision, weights=weights, samples=args.samples)
        feeds, outputs = read(theirs / "feeds.npz"), read(theirs / "outputs.npz")
        found: dict[str, Any] = {"theirs": {}, "ours": {}}
        for version in VERSIONS:
            file = theirs / f"model.{version}.encodings"
            if not file.is_file():
                found["theirs"][version] = "not written by it"
                continue
            try:
                made = fewbits.apply_encodings(theirs / "model.onnx", file, output=Path(scratch) / version)
            except FewbitsError as error:
                found["theirs"][version] = str(error)
                continue
            found["theirs"][version] = apart(outputs, run(made.output / names.ARTIFACT, feeds))
        imported = fewbits.import_qdq(theirs / "model.qdq.onnx", output=Path(scratch) / "imported")
        found["import"] = imported.parity.sqnr_db
        found["layouts"] = {}
        found["yardstick"] = apart(outputs, run(theirs / "model.qdq.onnx", feeds))
        if weights == "per-channel":
            found["ours"] = ours(network, precision, Path(scratch), args, feeds)
            for version in VERSIONS:
                both = [
                    layout(json.loads(path.read_text()))
                    for path in (
                        theirs / f"model.{version}.encodings",
                        Path(scratch) / f"ours {version}" / names.ENCODINGS,
                    )
                ]
                differing = {k: [both[0][k], v] for k, v in both[1].items() if k in both[0] and both[0][k] != v}
                found["layouts"][version] = {
                    "differing": differing,
                    "only ours": sorted(set(both[1]) - set(both[0])),
                    "only theirs": sorted(set(both[0]) - set(both[1])),
                }
        return found


def ours(network: str, precision: str, scratch: Path, args: Namespace, feeds: Runs) -> dict[str, Any]:
    """Return how far aimet-onnx's simulation of our encodings is from our simulation, by layout."""
    net, found = NETWORKS[network], {}
    fewbits.quantize(
        net.path, precision=precision, data=lambda: net.calibration(args.samples), ranges="minmax", metric="sqnr",
        eval_samples=2, bias_correction=False, output=scratch / "made",
    )  # fmt: skip
    for version in VERSIONS:
        folder = scratch / f"ours {version}"
        fewbits.export(scratch / "made", output=folder, encodings_version=version)
        np.savez(folder / "feeds.npz", **{f"{i}|{k}": v for i, one in enumerate(feeds) for k, v in one.items()})
        peer("load", folder, precision=precision)
        found[version] = apart(run(folder / names.ARTIFACT, feeds), read(folder / "aimet.npz"))
    return found


def peer(task: str, folder: Path, **options: object) -> None:
    python = PEERS / ".venvs" / "aimet" / "bin" / "python"
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    done = subprocess.run(
        [str(python), str(PEERS / "aimet_encodings.py"), task, str(folder), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"aimet {task} failed:\n{done.stderr[-1500:]}")


def run(model: Path, feeds: Runs) -> Runs:
    session = open_session(model, policy=SessionPolicy.EXACT)
    return [dict(session(one)) for one in feeds]


def apart(left: Runs, right: Runs) -> float | str:
    """Return the worst SQNR of any output, by position: aimet-onnx renames some."""
    columns = [zip(*(list(one.values()) for one in side), strict=True) for side in (left, right)]
    found = [sqnr(list(a), list(b)) for a, b in zip(*columns, strict=True)]
    worst = min((value for value in found if value is not None), default=None)
    return "equal" if worst is None else round(worst, 1)


def read(path: Path) -> Runs:
    runs: dict[int, dict[str, Any]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, _, name = key.partition("|")
            runs.setdefault(int(number), {})[name] = stored[key]
    return [runs[i] for i in sorted(runs)]


if __name__ == "__main__":
    main()
