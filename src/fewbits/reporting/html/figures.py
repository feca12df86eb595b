"""What the page's script draws, as one JSON document: groups, tensors and mixed profiles.

Columns rather than objects, and decibels in tenths: a page of 2000 groups must open at once. The keys are those that
`script/` reads.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fewbits.reporting.analysis_record import PARTS, AnalysisRecord, Figure, TensorRow
from fewbits.reporting.html.amp_figures import FIRST, amp_figures
from fewbits.reporting.html.chosen import default_precision, own_precisions
from fewbits.reporting.html.contest import auto_figure, dumped
from fewbits.reporting.html.series import packed_series, short
from fewbits.reporting.html.sources import Source, amps, analyses, autos, litemps
from fewbits.reporting.litemp_record import LitempRecord

ANCHOR = "candidate-"
"""What the rows of the table of candidates are called, before their number."""
_SCORE = 8
"""Digits that a score keeps."""


def figures_json(sources: Sequence[Source], room: int) -> str:
    """Return the document, safe inside a script element.

    Args:
        sources: the records.
        room: bytes that it may take. Histograms and channel ranges are made coarser, or left out, to keep to it.
    """
    document = {
        "analyses": [_analysis(source, record, sources) for source, record in analyses(sources)],
        "litemps": [_litemp(source, record) for source, record in litemps(sources)],
        "amps": [amp_figures(source, record) for source, record in amps(sources)],
        "contests": [auto_figure(record, ANCHOR) for _, record in autos(sources)[-1:]],
    }
    known = [analysis["groups"]["name"] for analysis in document["analyses"]]
    for amp in document["amps"]:
        if amp["groups"]["name"] in known:
            amp["groups"]["name"] = known.index(amp["groups"]["name"])
    records = [record for _, record in analyses(sources)]
    tensors = [tensor for record in records for tensor in record.tensors]
    named = {diagnosis.tensor for record in records for diagnosis in record.diagnoses}
    series = iter(packed_series(tensors, named, room - len(dumped(document))))
    for analysis in document["analyses"]:
        for _ in analysis["tensors"]["name"]:
            histogram, channels = next(series)
            analysis["tensors"]["histogram"].append(histogram)
            analysis["tensors"]["channels"].append(channels)
    return dumped(document)


def _analysis(source: Source, record: AnalysisRecord, sources: Sequence[Source]) -> dict[str, Any]:
    groups = record.groups
    index = {group.name: i for i, group in enumerate(groups)}
    figures = {
        precision: {part: _columns([g.figures.get(precision, {}).get(part) for g in groups]) for part in PARTS}
        for precision in record.precisions
    }
    measured = {p: [_tenths(group.measured.get(p)) for group in groups] for p in record.precisions}
    return {
        "label": source.label,
        "method": record.method,
        "precisions": list(record.precisions),
        "groups": {
            "name": [group.name for group in groups],
            "op": [group.op for group in groups],
            "nodes": [[node for node in group.nodes if node != group.name] for group in groups],
            "macs": [group.macs for group in groups],
            "weights": [group.weights for group in groups],
        },
        "figures": {p: {part: c for part, c in parts.items() if c is not None} for p, parts in figures.items()},
        "measured": {p: values for p, values in measured.items() if any(v is not None for v in values)},
        "profiles": list(_profiles(record, sources, index)),
        "tensors": _tensors(record.tensors, index),
    }


def _columns(figures: Sequence[Figure | None]) -> dict[str, list[int | None]] | None:
    """Return SQNR and how far its interval reaches below and above it, one each per group; None where none has any."""
    if not any(figures):
        return None
    columns: dict[str, list[int | None]] = {"db": [], "below": [], "above": []}
    for figure in figures:
        middle, low, high = map(_tenths, (figure.sqnr_db, figure.low_db, figure.high_db)) if figure else (None,) * 3
        columns["db"].append(middle)
        columns["below"].append(None if middle is None or low is None else max(middle - low, 0))
        columns["above"].append(None if middle is None or high is None else max(high - middle, 0))
    return columns


def _profiles(record: AnalysisRecord, sources: Sequence[Source], index: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the precision of every group: in the full simulation, then in each mixed profile, the latest step first."""
    yield {"label": "full simulation", **_digits([group.precision for group in record.groups]), "accepted": False}
    for source, auto in autos(sources)[-1:]:
        if source.made is not None and auto.model.get("sha256") == record.model.get("sha256"):
            default, own = default_precision(source.made), own_precisions(source.made)
            precision = [own.get(group.name, default) for group in record.groups]
            yield {"label": "chosen model", **_digits(precision), "accepted": True}
    for source, amp in amps(sources):
        where = f" ({source.folder})" if len(amps(sources)) > 1 else ""
        point = None if amp.chosen is None else amp.point(amp.chosen)
        if point is not None and all(group.name in point.profile for group in record.groups):
            precision = [point.profile[group.name] for group in record.groups]
            yield {"label": f"point {point.number}{where}", **_digits(precision), "accepted": amp.is_accepted}
    mixed = litemps(sources)
    for source, litemp in mixed:
        where = f" ({source.folder})" if len(mixed) > 1 else ""
        for number, step in enumerate(litemp.steps):
            if not all(name in index for name in step.lifted):
                continue  # of another model
            precision = [litemp.base] * len(record.groups)
            for name in step.lifted:
                precision[index[name]] = litemp.high
            label = f"{step.percent:g} % in {litemp.high}{where}"
            yield {
                "label": label, **_digits(precision), "accepted": number == litemp.accepted, "percent": step.percent,
                "base": litemp.base,
            }  # fmt: skip


def _tensors(tensors: Sequence[TensorRow], index: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": [tensor.name for tensor in tensors],
        "role": _digits([tensor.role for tensor in tensors]),
        "group": [index.get(tensor.group) for tensor in tensors],
        "range": [[short(tensor.low), short(tensor.high)] for tensor in tensors],
        "clip": [[short(tensor.clip_low), short(tensor.clip_high)] for tensor in tensors],
        "scale": [short(tensor.scale) for tensor in tensors],
        "zero": [tensor.zero_point for tensor in tensors],
        "bits": [tensor.bits for tensor in tensors],
        "db": [_tenths(tensor.error_db) for tensor in tensors],
        "outliers": [[[channel, short(ratio)] for channel, ratio in t.outlier_channels[:64]] for t in tensors],
        "dead": [list(tensor.dead_channels[:256]) for tensor in tensors],
        "deadCount": [len(tensor.dead_channels) for tensor in tensors],
        "histogram": [],
        "channels": [],
    }


def _litemp(source: Source, record: LitempRecord) -> dict[str, Any]:
    sign = 1.0 if record.metric["higher_is_better"] else -1.0
    floor = record.goal.get("floor")
    threshold = record.float_row.score - sign * record.goal["max_drop"] if floor is None else floor

    def point(label: str, percent: float, macs: float | None, row: Any, **more: Any) -> dict[str, Any]:
        ends = None
        if row.interval is not None and math.isfinite(record.float_row.score):
            ends = sorted(short(record.float_row.score - sign * end, _SCORE) or 0.0 for end in row.interval)
        return {
            "label": label, "percent": percent, "macs": short(macs), "operations": row.bit_operations,
            "bytes": row.weight_bytes, "score": short(row.score, _SCORE), "ends": ends, "status": row.status, **more,
        }  # fmt: skip

    points = [point(f"all {record.base}", 0, 0.0, record.base_row, groups=0)]
    for number, step in enumerate(record.steps):
        label, accepted = f"{step.percent:g} % lifted", number == record.accepted
        points.append(point(label, step.percent, step.share_macs, step, groups=step.groups, accepted=accepted))
    if record.high_row is not None:
        points.append(point(f"all {record.high}", 100, 1.0, record.high_row))
    return {
        "label": source.label, "base": record.base, "high": record.high, "unit": record.metric["unit"],
        "metric": record.metric["name"], "float": short(record.float_row.score, _SCORE),
        "threshold": short(threshold, _SCORE), "floatOperations": record.float_row.bit_operations, "points": points,
    }  # fmt: skip


def _tenths(value: float | None) -> int | None:
    """Return decibels in tenths, or None where there is no number."""
    return round(10 * value) if value is not None and math.isfinite(value) else None


def _digits(names: Sequence[str]) -> dict[str, Any]:
    """Return the different names, and for each of `names` the place of its own as one character."""
    different = list(dict.fromkeys(names))
    return {"names": different, "codes": "".join(chr(FIRST + different.index(name)) for name in names)}
