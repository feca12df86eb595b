"""Records as runs would leave them, of any size, with fixed seeds."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.reporting.amp_record import AmpRecord, GroupFacts, Origin, Point
from fewbits.reporting.analysis_record import AnalysisRecord, Diagnosis, Figure, GroupRow, TensorRow
from fewbits.reporting.baseline_record import BaselineRecord, Row
from fewbits.reporting.litemp_record import LitempRecord, Step

OPS = ("Conv", "Conv", "Add", "Gemm", "Concat", "LayerNormalization")
GIGA, MEGA = 10**9, 10**6
METRIC = {"name": "top1", "unit": "%", "higher_is_better": True, "samples": 2000, "is_on_calibration_data": False}
GOAL = {"max_drop": 0.5, "floor": None, "text": "drop of at most 0.5 %", "is_default": False}
SHARED: dict[str, Any] = {
    "created": "2025-03-04T10:20:30+00:00",
    "options": {"model": "mobilenet.onnx", "data": "calib", "max_drop": "0.5", "dims": {"batch": 1}},
    "model": {"source": "mobilenet.onnx", "sha256": "a" * 64, "prepared": True, "changes": []},
    "data": {"calibration": {"name": "calib", "fingerprint": "b" * 64, "samples": 400}},
    "target": "qnn-htp-v73",
    "timings": {"prepare": 1.2, "score float": 9.4, "calibrate": 21.7, "quantize w8a8": 3.1, "score w8a8": 6.6},
}


def baseline_record(**changes: Any) -> BaselineRecord:
    """Return a model that is sensitive to 8-bit activations."""
    rows = (
        Row("w8a8", 70.1, 1.77, (1.21, 2.33), "poor", 19 * GIGA, 4 * MEGA),
        Row("w8a16", 71.6, 0.27, (-0.08, 0.61), "ok", 38 * GIGA, 4 * MEGA),
        Row("w16a16", 71.8, 0.07, (-0.09, 0.2), "ok", 77 * GIGA, 7 * MEGA),
        Row("fp16", 71.87, 0.0, (0.0, 0.0), "ok", 77 * GIGA, 7 * MEGA),
    )
    facts: dict[str, Any] = {
        "verb": "baseline",
        **SHARED,
        "metric": METRIC,
        "goal": GOAL,
        "float_row": Row("float", 71.87, bit_operations=307 * GIGA, weight_bytes=14 * MEGA),
        "rows": rows,
        "refused": {},
        "verdict": {
            "finding": "activation-sensitive",
            "accepted": "w8a16",
            "reason": "8-bit activations cost accuracy, 16-bit activations with the same 8-bit weights do not "
            "(w8a8 70.10 %, drop 1.77 % [1.21 to 2.33]; w8a16 71.60 %, drop 0.27 % [-0.08 to 0.61]).",
            "remarks": [],
        },
        "next_steps": (
            ("hand over w8a16, if its latency suffices", "fewbits export run/baseline --precision w8a16 -o run/deploy"),
            ("lift the most sensitive groups", "fewbits litemp mobilenet.onnx --base w8a8 --high w8a16 -o run/litemp"),
        ),
        "notes": ("w8a8: 12 channels of 3 weights were widened so that their int32 biases fit.",),
    }
    return BaselineRecord(**(facts | changes))


def litemp_record(groups: int = 50, **changes: Any) -> LitempRecord:
    """Return three percentages of which the last meets the goal; lifts the first groups of `analysis_record`."""
    steps = []
    for percent, score, drop, ends, status in (
        (5.0, 70.9, 0.97, (0.5, 1.44), "poor"),
        (10.0, 71.3, 0.57, (0.18, 0.96), "poor"),
        (20.0, 71.55, 0.32, (-0.02, 0.66), "ok"),
    ):
        lifted = max(1, round(groups * percent / 100))
        operations = int((19 + 0.22 * percent) * GIGA)
        names = tuple(group_name(i) for i in range(0, 3 * lifted, 3))
        folder = f"p{percent:02.0f}"
        steps.append(
            Step(percent, lifted, 0.011 * percent, names, score, drop, ends, status, operations, 4 * MEGA, folder)
        )
    facts: dict[str, Any] = {
        "verb": "litemp",
        **SHARED,
        "metric": METRIC,
        "goal": GOAL,
        "base": "w8a8",
        "high": "w8a16",
        "ranking": "one-pass",
        "float_row": Row("float", 71.87, bit_operations=307 * GIGA, weight_bytes=14 * MEGA),
        "base_row": Row("w8a8", 70.1, 1.77, (1.21, 2.33), "poor", 19 * GIGA, 4 * MEGA),
        "high_row": Row("w8a16", 71.6, 0.27, (-0.08, 0.61), "ok", 38 * GIGA, 4 * MEGA),
        "steps": tuple(steps),
        "accepted": 2,
        "reason": "20 % of the groups in w8a16 lose 0.32 % [-0.02 to 0.66]; 10 % of them lose 0.57 % [0.18 to 0.96].",
        "next_steps": (
            ("hand it over", "fewbits export run/litemp -o run/deploy"),
            ("check what is handed over", "fewbits verify run/deploy"),
        ),
        "notes": (),
        "refused": {},
    }
    return LitempRecord(**(facts | changes))


def amp_record(groups: int = 50, count: int = 18, **changes: Any) -> AmpRecord:
    """Return a search between w4a8 and w16a16 that scored about half of its points; the fifth last is accepted."""
    rng = np.random.default_rng(groups)
    macs = rng.gamma(0.7, size=groups)
    facts = tuple(GroupFacts(group_name(i), 1 + i % 3, float(m)) for i, m in enumerate(macs / macs.sum()))
    sensitive = np.argsort(rng.random(groups) - 0.4 * (np.arange(groups) < 3) - 0.3 * (np.arange(groups) > groups - 3))
    found = [_point(i, count, facts, sensitive, rng) for i in range(count)]
    made = tuple(sorted(found, key=lambda point: point.cost))
    scored = [point for point in made if point.score is not None]
    chosen = next((point.number for point in scored if point.status == "ok"), None)
    about: dict[str, Any] = {
        "verb": "amp",
        **SHARED,
        "timings": {"prepare": 1.2, "score float": 9.4, "calibrate": 21.7, "find costs": 0.4, "predict noise": 31.5}
        | {f"{kind} point {p.number}": s for p in scored for kind, s in (("quantize", 3.1), ("score", 6.6))},
        "metric": METRIC,
        "goal": GOAL,
        "candidates": ("w4a8", "w8a8", "w8a16", "w16a16"),
        "cost": {"name": "bitops", "unit": "bit operations", "is_estimate": False},
        "budget": None,
        "sensitivity": "one-pass",
        "float_row": Row("float", 71.87, bit_operations=307 * GIGA, weight_bytes=14 * MEGA),
        "groups": facts,
        "points": made,
        "chosen": chosen,
        "is_accepted": chosen is not None,
        "is_finished": True,
        "ended": "the threshold is bracketed: what costs 6.1 % less is not within the goal",
        "evaluations": len(scored),
        "rank_correlation": 0.964,
        "reason": f"point {chosen} is the cheapest that is within the goal; the next cheaper one is not.",
        "next_steps": (
            ("check what is handed over", "fewbits verify run/amp"),
            ("take another point of the curve", "fewbits export run/amp --point 2 -o run/amp/deploy"),
        ),
        "notes": (),
    }
    return AmpRecord(**(about | changes))


_BITS = {"w4a8": 32, "w8a8": 64, "w8a16": 128, "w16a16": 256}


def _point(index: int, points: int, facts: tuple[GroupFacts, ...], sensitive: Any, rng: np.random.Generator) -> Point:
    depth = index / max(points - 1, 1)  # 0: all in the lowest precision, 1: all in the highest
    order = {int(group): place / len(facts) for place, group in enumerate(sensitive)}
    levels = [int(3 * depth + (1 - order[i]) * (depth not in (0.0, 1.0))) for i in range(len(facts))]
    names = [list(_BITS)[level] for level in levels]
    profile = {group.name: name for group, name in zip(facts, names, strict=True)}
    conversions = sum(a[-2:] != b[-2:] for a, b in pairwise(names))
    conversion_cost = 3.6 * GIGA * conversions / len(facts)
    operations = sum(_BITS[n] * (g.share_macs or 0.0) for g, n in zip(facts, names, strict=True)) * 0.3 * GIGA
    predicted = 0.3 * 10 ** (-4.2 * depth)
    origins: tuple[Origin, ...] = ("curve", "between", "repaired")
    origin: Origin = "uniform" if depth in (0.0, 1.0) else origins[index % 7 // 3]
    shares = {name: names.count(name) / len(names) for name in dict.fromkeys(names)}
    point = Point(
        1 + (index * 7) % points, origin, profile, shares, operations + conversion_cost, conversions, conversion_cost,
        predicted,
    )  # fmt: skip
    if index % 2 and index != points - 1 and not 0.4 < depth < 0.7:
        return point
    drop = 60 * predicted**1.3 + 0.03 * rng.standard_normal()
    status = "ok" if drop <= GOAL["max_drop"] else "noise" if drop < 0.8 else "poor"
    return replace(
        point, measured=predicted * float(np.exp(0.35 * rng.standard_normal())), score=71.87 - drop, drop=drop,
        interval=(drop - 0.3 - drop / 8, drop + 0.3 + drop / 8), status=status, bit_operations=int(operations),
        weight_bytes=int((2 + 5 * depth) * MEGA), folder=f"point{point.number:02}",
    )  # fmt: skip


def group_name(index: int) -> str:
    """Return the name of a group as exporters make them."""
    return f"/features/{index // 6}/block/{index}/{OPS[index % len(OPS)]}"


def analysis_record(groups: int = 50, channels: int = 64, **changes: Any) -> AnalysisRecord:
    """Return an analysis of `groups` groups, each with an activation and a weight of `channels` channels."""
    rng = np.random.default_rng(groups)
    rows = tuple(_group(i, groups, rng) for i in range(groups))
    tensors = tuple(tensor for i in range(groups) for tensor in _tensors(i, channels, rng))
    facts: dict[str, Any] = {
        "verb": "analyze",
        **SHARED,
        "precisions": ("w8a8", "w8a16", "fp16"),
        "output_names": ("logits",),
        "samples": 64,
        "probes": 4,
        "method": "one-pass",
        "metric": "the mean square error of each output channel, relative to the channel's variance",
        "groups": rows,
        "tensors": tensors,
        "diagnoses": tuple(_diagnoses(groups)),
        "notes": ("3 groups were confirmed by a real run.",),
    }
    return AnalysisRecord(**(facts | changes))


def _group(index: int, groups: int, rng: np.random.Generator) -> GroupRow:
    depth = 38 + 10 * index / groups + 5 * rng.standard_normal()
    base = depth - (18 if index % 17 == 3 else 0)
    figures = {
        "w8a8": {"all": _figure(base), "weights": _figure(base + 4), "activations": _figure(base + 1.5)},
        "w8a16": {"all": _figure(base + 9), "weights": _figure(base + 9.3), "activations": _figure(base + 28)},
        "fp16": {"all": _figure(base + 31), "weights": _figure(base + 33), "activations": _figure(base + 34)},
    }
    name, op = group_name(index), OPS[index % len(OPS)]
    has_weight = op in ("Conv", "Gemm")
    macs = int(rng.integers(1, 90)) * 10**5 if has_weight else 0
    measured = {"w8a8": base + 0.8} if index % 17 == 3 else {}
    return GroupRow(
        name, op, (name, f"{name}_relu"), macs, int(rng.integers(1, 900)) * 100 if has_weight else 0, "w8a8", figures,
        measured,
    )  # fmt: skip


def _figure(sqnr_db: float) -> Figure:
    error = 10 ** (-sqnr_db / 10)
    return Figure(error, round(sqnr_db, 3), round(sqnr_db - 0.9, 3), round(sqnr_db + 1.1, 3))


def _tensors(index: int, channels: int, rng: np.random.Generator) -> list[TensorRow]:
    spread = np.exp(0.5 * rng.standard_normal(channels))
    outliers: tuple[tuple[int, float], ...] = ()
    if index % 17 == 3:
        spread[channels // 3] *= 25
        outliers = ((channels // 3, 25.0),)
    high = tuple(float(f"{3 * s:.6g}") for s in spread)
    low = tuple(-0.4 * end for end in high)
    top = max(high)
    edges = np.linspace(-0.4 * top, top, 129)
    middle = (edges[1:] + edges[:-1]) / 2
    counts = tuple(int(c) for c in 4e6 * np.exp(-np.abs(middle) / (0.06 * top)) + rng.integers(0, 3, middle.size))
    histogram = (float(edges[0]), float(edges[1] - edges[0]), counts)
    name = group_name(index)
    scale = 0.9 * 1.4 * top / 255
    activation = TensorRow(
        f"{name}_output_0", "activation", name, -0.4 * top, top, -0.36 * top, 0.9 * top, scale, 73, 8,
        20 + 20 * rng.random(), low, high, histogram, outliers, (1, 5) if index % 11 == 0 else (),
    )  # fmt: skip
    weight_low = tuple(float(f"{-0.1 * s:.5g}") for s in spread)
    weight_high = tuple(float(f"{0.11 * s:.5g}") for s in spread)
    weight = TensorRow(
        f"{name}.weight", "weight", name, min(weight_low), max(weight_high), -max(weight_high), max(weight_high),
        None, None, 8, None, weight_low, weight_high,
    )  # fmt: skip
    return [activation, weight]


def _diagnoses(groups: int) -> list[Diagnosis]:
    made = []
    for index in range(3, groups, 17):
        name = group_name(index)
        made.append(
            Diagnosis(
                name, f"{name}_output_0", "channel-range",
                f"Channel 21 of '{name}_output_0' spans 105, the median channel 4.2: under one scale the others keep "
                f"10 of 255 steps.",
                f'fewbits quantize mobilenet.onnx --data calib --profile "{name}=w8a16" -o OUT',
                {"ratio": 25.0, "channel": 21},
            )
        )  # fmt: skip
    if groups > 9:
        name = group_name(9)
        made.append(
            Diagnosis(
                name, "", "long-tail",
                f"The largest value of '{name}' is 11 times its 99.9 % quantile.", "--ranges percentile:99.99",
                {"tail": 11.2},
            )
        )  # fmt: skip
    return made


def write_records(folder: Path, *records: Any) -> Path:
    """Write each record into the folder of its verb inside `folder`."""
    for record in records:
        (folder / record.verb).mkdir(parents=True, exist_ok=True)
        (folder / record.verb / "record.json").write_text(record.to_json(), encoding="utf-8")
    return folder
