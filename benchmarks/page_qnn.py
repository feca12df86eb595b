"""The section of docs/results.md on Qualcomm's compiler and emulator."""

from typing import Any

from page import load, table

PRECISIONS = ("w8a8", "w8a16", "w4a8", "w16a16", "fp16")


def qnn() -> str:
    """Return what compiled for which chip, how close the emulator came, and the compiler's estimates."""
    results, when = load("qnn")
    rows = [row for result in results.values() for row in result["compiled"]]
    compiled = sum(not row["refused"] for row in rows)
    announced = sum(row["refused"] and row["announced"] for row in rows)
    surprises = sum(row["refused"] and not row["announced"] for row in rows)
    alarms = sum(row["announced"] and not row["refused"] for row in rows)
    return (
        "## Qualcomm's compiler and emulator\n\nEvery network at every precision through `fewbits lint` and onnxruntime-qnn for six chips, ranges by "
        "mean square error on 64 calibration samples. A model counts as compiled if every operator that was found runs in the type that the file "
        f"says. Of {len(rows)} models {compiled} compiled and {announced} were refused as lint had said; {surprises} were refused without, and "
        f"{alarms} compiled although lint had found something. Refused are w16a16 before HTP v73 and fp16 on QCS6490, which have neither.\n\n"
        + table(("network", *PRECISIONS), [(name, *(cell(r, p) for p in PRECISIONS)) for name, r in results.items()])
        + "\nNumber of chips that it compiled for, of six; in brackets those refused.\n\n"
        + estimated(results) + when + "\n" + emulated()
    )  # fmt: skip


def cell(result: dict[str, Any], precision: str) -> str:
    mine = [row for row in result["compiled"] if row["precision"] == precision]
    refused = [row["chip"] for row in mine if row["refused"]]
    return f"{len(mine) - len(refused)}" + (f" ({', '.join(refused)})" if refused else "")


def emulated() -> str:
    """Return the emulator next to the file executed exactly as written, and the scores on it."""
    results, when = load("emulator")
    rows, notes, scored = [], [], []
    for name, by_precision in results.items():
        for precision, found in by_precision.items():
            if "refused" in found:
                notes.append(f"- {name} {precision}: {found['refused']}")
                continue
            for output, p in found["outputs"].items():
                ends = (decibels(p["place_db"]), decibels(p["float_db"]), "yes" if p["passed"] else "no")
                rows.append((name, precision, output, *ends))
            if found["localized"]:
                notes.append(f"- {name} {precision}: {localized(found['localized'])}")
            if found["score"]:
                s = found["score"]
                scored.append((name, precision, f"{s['float_']:.2f}", f"{s['sim']:.2f}", f"{s['place']:.2f}"))
    header = ("network", "precision", "output", "emulator to file dB", "file to float dB", "within 3 dB")
    return (
        "The HTP emulator (SM8550) against the file executed exactly as written, four samples, as `fewbits verify --on qnn-htp` runs it; fp16 against "
        "the torch executor. The fair limit is what quantization costs anyway: at most 3 dB below the file's own distance to float. No phone was "
        "involved.\n\n" + table(header, rows) + "\nWhere the limit is missed, this is what was found:\n\n" + "\n".join(notes)
        + "\n\nScores on the emulator, on the same samples as the simulation (CIFAR-10: 1000, speech: 500, Set5: 5, COCO: 128):\n\n"
        + table(("network", "precision", "float", "simulation", "emulator"), scored) + "\n" + when
    )  # fmt: skip


def localized(found: dict[str, Any]) -> str:
    """Return where it differs, in a line."""
    worst = found["tensors"][0]
    kinds = sorted(found["tapped_by_op"].items(), key=lambda row: -(row[1] if row[1] is not None else 999))
    text = (
        f"{decibels(found['db'])} dB on one sample; the operator that is worst on its own is {worst['op']} `{worst['node']}`, "
        f"{decibels(worst['alone_db'])} dB"
    )
    if (found["tapped_db"] or 999) > (found["db"] or 999) + 6:
        text += f"; {decibels(found['tapped_db'])} dB where nothing can be fused ({decibels(kinds[0][1])} dB where no {kinds[0][0]} can)"
    return text


def exchange() -> str:
    """Return how encodings come through between aimet-onnx and fewbits."""
    results, when = load("exchange")
    rows = [
        (
            row["network"], row["precision"], row["weights"],
            *(plain(row["theirs"].get(v)) for v in ("0.6.1", "1.0.0", "2.0.0")), plain(row["yardstick"]),
            plain(row["ours"].get("1.0.0")), "equal" if set(row["import"].values()) == {None} else str(row["import"]),
        )
        for row in results["rows"]
    ]  # fmt: skip
    header = (
        "network",
        "precision",
        "weights",
        "theirs, 0.6.1",
        "1.0.0",
        "2.0.0",
        "its own QDQ file",
        "ours in it",
        "import of its QDQ file",
    )
    return (
        "## Encodings exchanged with aimet-onnx\n\nSQNR in dB between the two simulations. Theirs: aimet-onnx calibrates and exports, `fewbits "
        "apply-encodings` makes the QDQ model. Ours: fewbits quantizes without bias correction, aimet-onnx loads float companion and encodings (all three "
        "layouts give the same figure). At 8 bits two engines round some values to neighbouring steps, which spreads with depth: aimet-onnx's own QDQ "
        "file in ONNX Runtime is no closer to its own simulation.\n\n" + table(header, rows)
        + "\nTwo things keep ours from 60 dB in its simulation at 16 bits. aimet-onnx gives the input of an AveragePool the grid of its output, whichever it "
        "loads last, which clips ResNet-56's last Relu. And no layout has a place for the int16 grid on which the second operand of a MatMul of two "
        "activations is read (KWT-1). FastestDet was not taken apart.\n\n" + layouts(results["rows"]) + trips(results["round_trips"]) + when
    )  # fmt: skip


def layouts(rows: list[dict[str, Any]]) -> str:
    """Return where the keys or types of our files differ from those of aimet-onnx's, by layout."""
    said = []
    for version in ("0.6.1", "1.0.0", "2.0.0"):
        found = [row["layouts"][version] for row in rows if row["layouts"]]
        kinds = sorted({kind for one in found for kind in one["differing"]})
        alone = sorted({kind for one in found for kind in one["only ours"]})
        said.append(
            f"{version}: "
            + (", ".join([*(f"{k} differs" for k in kinds), *(f"{k} in ours only" for k in alone)]) or "the same")
        )
    return (
        "Keys and types of the entries, by kind (section, type, granularity), ours against theirs, fewbits' own top-level key aside: "
        + "; ".join(said) + ".\n\n"
    )  # fmt: skip


def trips(found: dict[str, dict[str, str]]) -> str:
    """Return how many round trips gave the bits of the file again."""
    every = [value for by_precision in found.values() for value in by_precision.values()]
    equal = sum(value == "equal, equal" for value in every)
    return (
        f"Round trips of our own files, {len(found)} networks at w8a8, w8a16, w16a16, w4a8, fp16 and a mix of four: {equal} of {len(every)} gave the bits "
        "of the file again, both through `import` and through `apply-encodings`.\n\n"
    )


def plain(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"


def estimated(results: dict[str, Any]) -> str:
    """Return the compiler's latency estimates."""
    rows = [
        (name, chip, *(time(by_precision.get(p)) for p in PRECISIONS))
        for name, result in results.items()
        for chip, by_precision in result["estimated"].items()
    ]
    return (
        "The compiler's own latency estimates in microseconds, with its bounds: simulated, for two chips that have them; to rank models, not to "
        "promise.\n\n" + table(("network", "chip", *PRECISIONS), rows) + "\n"
    )


def time(found: Any) -> str:
    if found is None:
        return "-"
    return found if isinstance(found, str) else f"{found[0]} ({found[1]} to {found[2]})"
