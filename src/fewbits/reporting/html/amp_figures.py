"""What the page's script draws of automatic mixed precision: the points, and the precision of each group in each."""

from typing import Any

from fewbits.reporting.amp_record import AmpRecord, Point
from fewbits.reporting.html.amp_facts import ORIGINS, point_name, reference
from fewbits.reporting.html.series import short
from fewbits.reporting.html.sources import Source

FIRST = ord("0")
"""Character of the first of several names."""
_SCORE = 8
"""Digits that a score keeps."""


def amp_figures(source: Source, record: AmpRecord) -> dict[str, Any]:
    """Return what `script/amp.js` reads of one run; names that an analysis has, too, are replaced by its place."""
    floor, against = record.goal.get("floor"), reference(record)
    precisions = precisions_of(record)
    return {
        "label": source.label,
        "metric": record.metric["name"],
        "unit": record.metric["unit"],
        "cost": record.cost["name"],
        "costUnit": record.cost["unit"],
        "isEstimate": bool(record.cost.get("is_estimate")),
        "against": None if against is None else [against.name, short(against.cost, _SCORE)],
        "budget": short(record.budget, _SCORE),
        "isFloor": floor is not None,
        "goal": short(record.goal.get("max_drop") if floor is None else floor, _SCORE),
        "isAccepted": record.is_accepted,
        "isFinished": record.is_finished,
        "chosen": record.chosen,
        "precisions": precisions,
        "groups": {
            "name": [group.name for group in record.groups],
            "nodes": [group.nodes for group in record.groups],
            "macs": [short(group.share_macs) for group in record.groups],
        },
        "points": [_point(record, point, precisions) for point in record.points],
    }


def precisions_of(record: AmpRecord) -> list[str]:
    """Return the precisions that some group has in some point: the candidates first, then what else is there."""
    found = {name for point in record.points for name in point.profile.values()}
    return [name for name in record.candidates if name in found] + sorted(found.difference(record.candidates))


def codes(record: AmpRecord, point: Point, precisions: list[str]) -> str:
    """Return the place in `precisions` of the precision of each group, as one character; a blank where it has none."""
    place = {name: chr(FIRST + i) for i, name in enumerate(precisions)}
    return "".join(place.get(point.profile.get(group.name, ""), " ") for group in record.groups)


def _point(record: AmpRecord, point: Point, precisions: list[str]) -> dict[str, Any]:
    ends = None if point.interval is None else [short(end, _SCORE) for end in point.interval]
    return {
        "number": point.number,
        "name": point_name(point),
        "origin": ORIGINS[point.origin],
        "shares": sorted(([name, short(share)] for name, share in point.shares.items()), key=lambda item: -item[1]),
        "cost": short(point.cost, _SCORE),
        "conversions": point.conversions,
        "conversionCost": short(point.conversion_cost, _SCORE),
        "predicted": short(point.predicted),
        "measured": short(point.measured),
        "isScored": point.score is not None,
        "score": short(point.score, _SCORE),
        "drop": short(point.drop, _SCORE),
        "ends": None if ends is None or None in ends else ends,
        "status": point.status,
        "codes": codes(record, point, precisions),
    }
