"""What the page says and draws of automatic mixed precision."""

import math
from dataclasses import replace

import pytest
from sample_records import (
    METRIC,
    amp_record,
    analysis_record,
    baseline_record,
    group_name,
    litemp_record,
    write_records,
)
from test_page import NASTY, Reader, data_of, page_of, sections

from fewbits.reporting.baseline_record import Row
from fewbits.reporting.html.amp_facts import reference
from fewbits.reporting.html.page import MOST_BYTES
from fewbits.reporting.html.sources import Source, amps, find_sources
from fewbits.reporting.html.tables import score_tables
from fewbits.reporting.html.verdict import headline


def conclusion(record):
    sources = [Source("", record)]
    return headline(sources, score_tables(sources))


def said(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_section_is_there_only_where_a_run_feeds_it():
    assert sections(page_of(amp_record())) == {"scores", "amp"}
    page = page_of(amp_record(), litemp_record(), analysis_record(50, 4))
    assert {"amp", "litemp", "map"} <= sections(page)
    assert "Lite mixed precision" in Reader(page).text
    assert "plotly.js v" in page


def test_headline_comes_before_lite_mixed_precision():
    sources = [Source(r.verb, r) for r in (baseline_record(), litemp_record(), amp_record())]
    found = headline(sources, score_tables(sources))
    assert said(found.sentence) == "A mix of w8a8 and w8a16 (point 7) meets the goal at 26 % of the cost of all w16a16."
    assert (found.step, found.status) == ("Automatic mixed precision", "ok")
    assert [step for step, _ in found.earlier] == ["Baseline: activation-sensitive", "Lite mixed precision"]
    assert dict(found.figures)["cost"].endswith("% of all w16a16")
    assert found.commands[0][1] == "fewbits verify run/amp"


def test_headline_of_a_run_that_was_stopped_says_how_it_goes_on():
    found = conclusion(amp_record(is_finished=False, ended=""))
    assert found.step == "Automatic mixed precision: stopped"
    assert found.sentence == "The search was stopped; the same command resumes it where it was."
    assert found.status == "noise"
    assert said(found.reason).startswith("So far: A mix of w8a8 and w8a16 (point 7) meets the goal")
    assert "the same command resumes it" in Reader(page_of(amp_record(is_finished=False))).text


@pytest.mark.parametrize(
    ("statuses", "status", "says"),
    [
        (("poor",), "poor", "No point that was scored meets the goal."),
        (("poor", "noise"), "noise", "These samples cannot tell"),
        (("poor", "ok"), "poor", "No point that was scored is within everything"),
        ((), "poor", "No point was scored."),
    ],
)
def test_headline_of_a_run_that_accepted_nothing(statuses, status, says):
    points = [replace(point, score=None) for point in amp_record().points]
    for place, found in enumerate(statuses):
        points[place] = replace(points[place], score=70.0, drop=1.87, status=found)
    made = conclusion(amp_record(points=tuple(points), is_accepted=False, chosen=points[0].number))
    assert made.sentence.startswith(says)
    assert made.status == status
    assert made.figures == ()


def test_one_precision_that_is_the_cheapest_of_all_needs_no_prediction():
    point = replace(amp_record().points[0], predicted=None, drop=0.1, score=71.77, status="ok")
    record = replace(amp_record(), points=(point,), chosen=point.number, is_accepted=True, rank_correlation=None)
    assert conclusion(record).sentence == "w4a8 for all groups meets the goal."
    page = page_of(record)
    assert data_of(page)["amps"][0]["points"][0]["predicted"] is None
    assert "too few for a rank correlation" in Reader(page).text


def test_score_table_has_the_scored_points_by_rising_cost():
    record = amp_record()
    (table,) = score_tables([Source("", record)])
    scored = [point for point in record.points if point.score is not None]
    assert [row.name for row in table.rows] == ["float", *(f"point {point.number}" for point in scored)]
    assert (table.first, table.cost_of, table.has_cost) == ("point", "all w16a16", False)
    assert said(table.rows[-1].cost) == "100.0 %"
    shares = [float(said(row.cost).removesuffix(" %")) for row in table.rows[1:]]
    assert shares == sorted(shares)
    (chosen,) = [row for row in table.rows if row.is_accepted]
    assert (chosen.name, chosen.tag, chosen.word) == (f"point {record.chosen}", "accepted", "meets the goal")
    assert "; corrected errors" in chosen.detail
    assert table.rows[-1].detail == "100 % w16a16"


@pytest.mark.parametrize(("is_finished", "tag"), [(True, "best"), (False, "best so far")])
def test_score_table_marks_the_best_where_none_is_accepted(is_finished, tag):
    (table,) = score_tables([Source("", amp_record(is_accepted=False, is_finished=is_finished))])
    assert [row.tag for row in table.rows if row.tag] == [tag]
    assert not any(row.is_accepted for row in table.rows)
    (table,) = score_tables([Source("", amp_record(is_finished=is_finished))])
    assert [row.tag for row in table.rows if row.is_accepted] == ["accepted" if is_finished else tag]


def test_costs_of_another_unit_stand_beside_bit_operations():
    cost = {"name": "ort-latency", "unit": "us", "is_estimate": True}
    (table,) = score_tables([Source("", amp_record(cost=cost))])
    assert table.has_cost
    assert table.has_own_cost


def test_costs_are_compared_with_the_costliest_of_one_precision_or_float():
    record = amp_record()
    assert reference(record).name == "all w16a16"
    mixed = replace(record, points=record.points[4:8])
    assert (reference(mixed).name, reference(mixed).cost) == ("float", record.float_row.bit_operations)
    latency = replace(mixed, cost={"name": "table.csv", "unit": "units", "is_estimate": False})
    assert reference(latency) is None
    (table,) = score_tables([Source("", latency)])
    assert table.cost_of == ""
    assert said(table.rows[1].cost).endswith(" G units")


def test_figures_have_every_point_and_the_precision_of_every_group():
    record = amp_record()
    (found,) = data_of(page_of(record))["amps"]
    assert [point["number"] for point in found["points"]] == [point.number for point in record.points]
    assert found["precisions"] == list(record.candidates)
    for point, drawn in zip(record.points, found["points"], strict=True):
        spelled = [found["precisions"][ord(code) - ord("0")] for code in drawn["codes"]]
        assert spelled == [point.profile[group.name] for group in record.groups]
    assert found["goal"] == 0.5
    assert not found["isFloor"]


def test_numbers_that_json_lacks_and_groups_without_a_precision_are_left_blank():
    record = amp_record()
    odd = replace(
        record.points[4], score=math.nan, drop=math.nan, interval=(math.nan, math.nan), predicted=math.inf, profile={}
    )
    found = data_of(page_of(replace(record, points=(odd, *record.points[5:]))))["amps"][0]["points"][0]
    assert (found["score"], found["drop"], found["ends"], found["predicted"]) == (None, None, None, None)
    assert set(found["codes"]) == {" "}


def test_a_run_of_2000_groups_keeps_to_the_size_of_pages():
    page = page_of(amp_record(2000, 60), analysis_record(2000, 64))
    assert len(page.encode()) <= MOST_BYTES


def test_names_that_an_analysis_has_too_are_written_once():
    found = data_of(page_of(amp_record(50), analysis_record(50, 2), amp_record(5)))["amps"]
    assert found[0]["groups"]["name"] == 0
    assert found[1]["groups"]["name"] == [group_name(i) for i in range(5)]


def test_the_map_offers_the_chosen_point_of_the_same_model():
    (own,) = data_of(page_of(analysis_record(50, 2), amp_record(50), litemp_record(50)))["analyses"]
    accepted = [profile["label"] for profile in own["profiles"] if profile["accepted"]]
    assert accepted == ["point 7", "20 % in w8a16"]  # the first is shown: that of the latest step
    (other,) = data_of(page_of(analysis_record(50, 2), amp_record(5)))["analyses"]
    assert len(other["profiles"]) == 1


def test_time_is_told_by_kind_of_stage():
    text = said(Reader(page_of(amp_record())).text)
    scored = sum(point.score is not None for point in amp_record().points)
    assert f"score ({scored + 1} models)" in text
    assert f"quantize ({scored} models)" in text
    assert "score point" not in text


def test_names_are_escaped_in_automatic_mixed_precision():
    plain = amp_record(6)
    rename = {group.name: NASTY + group.name for group in plain.groups}
    record = replace(
        plain, groups=tuple(replace(g, name=rename[g.name]) for g in plain.groups),
        points=tuple(replace(p, profile={rename[k]: v for k, v in p.profile.items()}) for p in plain.points),
        cost={"name": NASTY, "unit": NASTY, "is_estimate": True}, ended=NASTY, reason=NASTY, notes=(NASTY,),
        metric={**METRIC, "name": NASTY, "unit": NASTY}, next_steps=((NASTY, NASTY),), timings={NASTY: 1.0},
    )  # fmt: skip
    page = page_of(record)
    reader = Reader(page)
    assert reader.tags.count("script") == 3
    assert "window.hacked=1</script>" not in page
    assert data_of(page)["amps"][0]["groups"]["name"][0] == NASTY + group_name(0)


def test_an_sqnr_goal_is_judged_by_the_score():
    goal = {"max_drop": 0.0, "floor": 20.0, "text": "SQNR of at least 20 dB", "is_default": True}
    metric = {**METRIC, "name": "sqnr", "unit": "dB"}
    record = amp_record(metric=metric, goal=goal, float_row=Row("float", math.nan, bit_operations=307))
    (found,) = data_of(page_of(record))["amps"]
    assert (found["isFloor"], found["goal"]) == (True, 20.0)
    (table,) = score_tables([Source("", record)])
    assert not table.has_drop
    assert table.rows[0].score == "reference"


def test_models_of_points_are_told_by_the_run(tmp_path, quantized_folder):
    (tmp_path / "record.json").write_text(amp_record().to_json())
    (tmp_path / "point07").mkdir()
    (tmp_path / "point07" / "record.json").write_text((quantized_folder / "record.json").read_text())
    sources = find_sources(tmp_path)
    assert [source.is_detail for source in sources] == [True, False]
    assert len(amps(sources)) == len(score_tables(sources)) == 1


def test_find_sources_puts_it_last(tmp_path):
    write_records(tmp_path, amp_record(), litemp_record(), analysis_record(3, 2))
    assert [source.folder for source in find_sources(tmp_path)] == ["analyze", "litemp", "amp"]
