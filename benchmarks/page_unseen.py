"""The section of docs/results.md on networks that were not in view when defaults were made."""

from typing import Any

from page import load, table
from unseen import AUTO, METHODS, PRECISION

UNITS = {"psnr": " dB", "perplexity": "", "top1": " %"}
WHAT = {
    "mobilenetv3": "depthwise, squeeze and excite, HardSwish",
    "efficientnet": "the same with SiLU and Sigmoid",
    "vit": "attention, LayerNorm, erf-GELU",
    "convnext": "depthwise 7x7, LayerNorm, layer scale",
    "unet": "denoiser: GroupNorm, InstanceNorm, ConvTranspose, Concat",
    "densenet": "Concat, normalization before layers",
    "shuffle": "grouped and shuffled, PReLU, a layer applied twice",
    "gru": "rows through a GRU, both ways",
    "lstm": "rows through an LSTM, both ways",
    "pixels": "decoder over pixels: embeddings, causal attention, tanh-GELU",
}


def unseen() -> str:
    """Return scores of every method and the recommendation of `auto` on the networks that nothing was tuned on."""
    results, when = load("unseen")
    shown = [method for method in METHODS if any(method in row["methods"] for row in results.values())]
    rows = [
        (
            name, WHAT[name], _figure(row, row["float"]), _figure(row, row["w8a8"]),
            _cell(row, {"dropped": [], **row["nearest"]}), *(_cell(row, row["methods"].get(method), auto=method == AUTO) for method in shown),
        )
        for name, row in results.items()
    ]  # fmt: skip
    header = ("network", "kind", "float", "w8a8", f"{PRECISION}, nearest", *shown)
    absent = ", ".join(name for name in WHAT if name not in results)
    left = f" Not measured: {absent}." if absent else ""
    found = [(name, *_recommended(row)) for name, row in results.items()]
    return (
        "## Networks that were not in view\n\nThe defaults were made with the networks above in view. These are of other kinds, trained on scikit-learn's digits after the defaults "
        "stood (`benchmarks/unseen.py`: 1,197 images train, 300 of them calibrate, 600 others are scored; 16x16 pixels; no default was changed after these figures were known). Top-1 in %, of unet PSNR in dB of digits "
        f"under noise, of pixels perplexity (lower is better). Methods at {PRECISION} for qnn-htp-v73, each one run from the float model; in brackets the SQNR of the outputs on 64 calibration samples in dB, since 600 samples "
        "tell no less than half a point. Declined: no layer changes. Without: that method is dropped, since the outputs would get worse. cle, smooth and bias-correction are applied where they are named, unless they decline themselves." + left + "\n\n"
        + table(header, rows)
        + "\n`fewbits auto` with the drop that is acceptable (0.5 %, 0.1 dB, perplexity 0.02):\n\n"
        + table(("network", "steps", "recommended", "score", "drop", "met", "verify", "s"), found)
        + "\n" + when + "\nThat is the last run; `unseen.json` has date and commit of each network.\n"
    )  # fmt: skip


def _figure(row: dict[str, Any], score: float) -> str:
    return f"{score:.{3 if row['metric'] == 'perplexity' else 2}f}"


def _cell(row: dict[str, Any], found: dict[str, Any] | None, *, auto: bool = False) -> str:
    if found is None or "declined" in found:
        return "" if found is None else "declined"
    without = f", without {', '.join(found['dropped'])}" if found["dropped"] and not auto else ""
    return f"{_figure(row, found['score'])} ({found['sqnr_db']:.1f}{without})"


def _recommended(row: dict[str, Any]) -> tuple[object, ...]:
    r = row["auto"]
    verified = next((text for name, text in r["checks"].items() if name == "verify"), "")
    return (
        " > ".join(r["steps"]), r["precision"], _figure(row, r["score"]) + UNITS[row["metric"]], _figure(row, r["drop"]),
        "yes" if r["is_met"] else "no", "ok" if verified.startswith("a fresh process gives") else verified or "not done", f"{r['wall_s']:.0f}",
    )  # fmt: skip


if __name__ == "__main__":
    print(unseen())
