"""Two runs side by side."""

from dataclasses import replace

import pytest
from sample_auto import auto_record, contenders, made_record, write
from sample_records import METRIC, amp_record, analysis_record, baseline_record, group_name, litemp_record
from test_page import NASTY, Reader, data_of
from test_page_improve import run_record

from fewbits.errors import OutputError, SpecError
from fewbits.reporting.html.compare import differing, node_differences
from fewbits.workflow.report import compare


def page_of(folder, first, second):
    """Return the page of two runs; each is a list of records that are merged."""
    write(folder / "a", *first)
    write(folder / "b", *second)
    return compare(folder / "a", folder / "b", folder / "page.html").read_text(encoding="utf-8")


def rows(page, section):
    text = page[page.index(f'<section id="{section}">') :]
    return Reader(text[: text.index("</section>")]).text


def test_two_whole_workflows_are_told_by_what_differs(tmp_path):
    other = auto_record(
        chosen="litemp-p20", contenders=contenders()[:9], options={**auto_record().options, "max_drop": "0.4"},
        versions={**auto_record().versions, "onnxruntime": "1.30.1"}, summary=("litemp-p20 meets the goals.",),
    )  # fmt: skip
    own = {group_name(0): "w8a16", group_name(5): "w8a8"}
    page = page_of(tmp_path, [made_record(), auto_record()], [made_record(profile=own), other])
    reader = Reader(page)
    assert "litemp-p20 meets the goals." in reader.text
    assert auto_record().summary[0] in reader.text
    settings = rows(page, "settings")
    assert "option max drop" in settings
    assert "option data" not in settings
    versions = rows(page, "versions")
    assert "1.30.1" in versions
    assert "numpy" not in versions
    nodes = rows(page, "nodes")
    assert "6 of 100 nodes have another precision" in nodes.replace("\N{NO-BREAK SPACE}", " ")
    assert group_name(0) not in nodes
    (chart,) = data_of(page)["contests"]
    assert [point["kind"] for point in chart["points"]].count(1) == 9
    figures = rows(page, "figures")
    assert "+0.09 %" in figures
    assert "+13.6 %" in figures  # 23.4 against 20.6 G bit operations
    assert all(link.startswith("#") and link[1:] in reader.ids for link in reader.links)
    assert len(page.encode()) < 6_000_000


RECORDS = {
    "auto": [made_record(), auto_record()],
    "baseline": [baseline_record()],
    "litemp": [litemp_record()],
    "amp": [amp_record()],
    "analyze": [analysis_record(6, 2)],
    "run": [run_record()],
}


@pytest.mark.parametrize("second", RECORDS)
@pytest.mark.parametrize("first", RECORDS)
def test_any_two_kinds_can_be_compared(first, second, tmp_path):
    page = page_of(tmp_path, RECORDS[first], RECORDS[second])
    reader = Reader(page)
    assert {"verdict", "figures", "candidates", "nodes", "settings", "versions"} <= set(reader.ids)
    has_chart = "analyze" not in (first, second)
    assert ("plotly.js v" in page) == has_chart
    assert ("One of the runs has no scores" in reader.text) != has_chart


def test_scores_of_different_metrics_or_data_are_not_drawn_or_are_said(tmp_path):
    other = baseline_record(
        metric={**METRIC, "name": "map"}, data={"evaluation": {"name": "eval", "fingerprint": "1" * 64}}
    )
    page = page_of(tmp_path, [baseline_record()], [other])
    assert "different metrics" in Reader(page).text
    assert "scored on different data" in Reader(page).text
    assert "plotly.js v" not in page


def test_different_goals_are_different_levels(tmp_path):
    goal = {"max_drop": 1.0, "floor": None, "text": "drop of at most 1 %", "is_default": False}
    page = page_of(tmp_path, [baseline_record()], [baseline_record(goal=goal)])
    levels = data_of(page)["contests"][0]["levels"]
    assert [round(value, 2) for _, value, is_goal in levels if is_goal] == [71.37, 70.87]
    assert [name.split("/")[0] for name, _, _ in levels] == ["float", "goal ", "goal "]


def test_the_accepted_model_of_a_baseline_is_its_chosen_one(tmp_path):
    write(tmp_path / "a", baseline_record())
    write(tmp_path / "a" / "w8a16", made_record(profile={}, options={"precision": "w8a16"}, precision={"w8a16": 99}))
    write(tmp_path / "b", made_record(), auto_record())
    page = compare(tmp_path / "a", tmp_path / "b", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "all 91 other nodes" in rows(page, "nodes")


def test_node_differences_count_the_rest_where_it_differs():
    one = made_record(precision={"w8a8": 10}, profile={"x": "w8a16"}, declined={})
    same = node_differences(one, one)
    assert (same.rows, same.sentence) == ((), "All 10 nodes have the same precision in both.")
    wide = replace(one, options={"precision": "w8a16"}, precision={"w8a16": 10}, profile={"x": "w8a16"})
    found = node_differences(one, wide)
    assert found.rows == (("all 9 other nodes", "w8a8", "w8a16"),)
    assert found.sentence == "9 of 10 nodes have another precision."
    many = replace(one, profile={f"n{i}": "w8a16" for i in range(500)}, precision={"w8a8": 100, "w8a16": 500})
    assert (len(node_differences(many, replace(many, profile={})).rows), node_differences(many, one).more) == (400, 101)
    assert "left no model" in node_differences(None, one).sentence
    assert "different models" in node_differences(one, replace(one, model={"sha256": "0"})).sentence


def test_differing_has_a_dash_for_what_one_lacks():
    assert differing({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == (("b", "2", "–"), ("c", "–", "3"))


def test_names_from_outside_are_escaped(tmp_path):
    made = made_record(profile={NASTY: "w8a16"}, model={"source": NASTY, "sha256": "1"})
    nasty = auto_record(
        options={NASTY: NASTY}, versions={NASTY: NASTY}, summary=(NASTY, NASTY), target=NASTY,
        model={"source": NASTY, "sha256": "1"},
        contenders=tuple(replace(one, name=NASTY, precision=NASTY, folder=NASTY) for one in contenders()),
    )  # fmt: skip
    page = page_of(tmp_path, [made, nasty], [replace(made, profile={}), replace(nasty, options={})])
    clean = page_of(tmp_path, [made_record(), auto_record()], [made_record(profile={}), auto_record()])
    assert set(Reader(page).tags) - {"p"} <= set(Reader(clean).tags)
    assert Reader(page).tags.count("script") == 3
    assert NASTY in Reader(page).text
    assert "window.hacked=1</script>" not in page


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    write(tmp_path / "a", baseline_record())
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="There is no folder"):
        compare(tmp_path / "a", tmp_path / "nothing")
    with pytest.raises(SpecError, match=r"There is no record\.json in"):
        compare(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(SpecError, match="name two different output folders"):
        compare(tmp_path / "a", tmp_path / "." / "a")
    write(tmp_path / "b", baseline_record())
    with pytest.raises(OutputError, match=r"it is a folder; name a file with -o '.*compare\.html'"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path)
