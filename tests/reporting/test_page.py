import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from sample_records import METRIC, analysis_record, baseline_record, group_name, litemp_record, write_records

from fewbits.errors import OutputError, SpecError
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.html.page import MOST_BYTES, render
from fewbits.reporting.html.sources import Source, find_sources
from fewbits.reporting.html.tables import score_tables
from fewbits.reporting.html.verdict import headline
from fewbits.reporting.record import RunRecord
from fewbits.workflow.report import report

NASTY = "</script><script>window.hacked=1</script><b>\"quoted\" 'single' &amp; ünïcødé ☃ <!--"


class Reader(HTMLParser):
    """What a browser would see: tags, links, text outside of scripts and styles."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self._raw = tag in ("script", "style")
        if found.get("id"):
            self.ids.append(found["id"])
        self.links += [value for name in ("href", "src", "action", "data", "poster") if (value := found.get(name))]

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def page_of(*records) -> str:
    return render([Source(record.verb, record) for record in records])


def data_of(page: str):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>\n', page, re.DOTALL).group(1)
    assert not set("<>&") & set(text)
    return json.loads(text)


def sections(page: str) -> set[str]:
    known = {"scores", "amp", "litemp", "sensitivity", "map", "diagnosis", "ranges", "layers", "notes"}
    return known & set(Reader(page).ids)


@pytest.mark.parametrize(
    ("records", "present"),
    [
        ((baseline_record(),), {"scores", "notes"}),
        ((baseline_record(notes=()),), {"scores"}),
        ((litemp_record(),), {"scores", "litemp"}),
        ((analysis_record(5, 4, notes=()),), {"sensitivity", "map", "diagnosis", "ranges", "layers"}),
    ],
)
def test_a_section_is_there_only_where_a_record_feeds_it(records, present):
    page = page_of(*records)
    assert sections(page) == present
    shown = {link[1:] for link in Reader(page).links if link.startswith("#")}
    assert shown - {"settings"} <= present
    assert ("plotly.js v" in page) == bool(present - {"scores", "notes"})


def test_a_page_of_500_groups_is_small_and_loads_nothing():
    page = page_of(baseline_record(), litemp_record(500), analysis_record(500, 256))
    assert len(page.encode()) <= MOST_BYTES
    reader = Reader(page)
    assert all(link.startswith("#") for link in reader.links), reader.links
    assert not {"link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    found = data_of(page)["analyses"][0]
    assert len(found["groups"]["name"]) == 500
    assert len(found["tensors"]["name"]) == len(found["tensors"]["channels"]) == 1000
    assert all(found["tensors"]["channels"])


def test_series_that_do_not_fit_are_left_out_beginning_with_what_matters_least():
    record = analysis_record(60, 256)
    record = replace(record, tensors=record.tensors * 70)
    page = page_of(record)
    assert len(page.encode()) <= MOST_BYTES
    tensors = data_of(page)["analyses"][0]["tensors"]
    named = {diagnosis.tensor for diagnosis in record.diagnoses} - {""}
    kept = [name for name, series in zip(tensors["name"], tensors["channels"], strict=True) if series != 0]
    assert named <= set(kept)
    assert 0 < len(kept) < len(tensors["name"])
    assert not any(name.endswith(".weight") for name in kept)


def test_names_are_escaped_everywhere():
    plain = analysis_record(30, 4)
    record = replace(
        plain,
        groups=tuple(replace(g, name=NASTY + g.name, op=NASTY, nodes=(NASTY,)) for g in plain.groups),
        tensors=tuple(replace(t, name=NASTY + t.name, group=NASTY + t.group) for t in plain.tensors),
        diagnoses=tuple(
            replace(d, group=NASTY, tensor=NASTY, cause=NASTY, sentence=NASTY, remedy=NASTY, figures={NASTY: 1.0})
            for d in plain.diagnoses
        ),
        metric=NASTY, notes=(NASTY,), options={NASTY: NASTY}, model={"source": NASTY, "sha256": NASTY},
        versions={NASTY: NASTY}, timings={NASTY: 1.0}, target=NASTY, created=NASTY,
    )  # fmt: skip
    baseline = baseline_record(refused={NASTY: NASTY}, next_steps=((NASTY, NASTY),), metric={**METRIC, "name": NASTY})
    page = page_of(baseline, record)
    clean = page_of(baseline_record(), plain)
    reader = Reader(page)
    assert "b" not in set(reader.tags) - set(Reader(clean).tags)
    assert reader.tags.count("script") == Reader(clean).tags.count("script") == 3
    assert "window.hacked=1</script>" not in page
    assert NASTY in reader.text
    assert data_of(page)["analyses"][0]["groups"]["name"][0] == NASTY + plain.groups[0].name


def test_plotly_and_the_pages_own_script_cannot_end_their_element():
    page = page_of(analysis_record(2, 2))
    for body in re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL):
        assert not ("<!--" in body and "<script" in body)


def test_headline_of_litemp_comes_before_the_baseline():
    sources = [Source("baseline", baseline_record()), Source("litemp", litemp_record())]
    found = headline(sources, score_tables(sources))
    assert found.sentence.replace("\N{NO-BREAK SPACE}", " ") == "w8a8 with 20 % of the groups in w8a16 meets the goal."
    assert found.status == "ok"
    assert found.commands[0][1] == "fewbits export run/litemp -o run/deploy"
    assert found.earlier == (("Baseline: activation-sensitive", "w8a16 is the lowest precision that meets the goal."),)
    assert dict(found.figures)["drop"] == "0.32 (−0.02 to 0.66)"


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"accepted": None, "steps": litemp_record().steps[:2]}, "poor", "Lifting up to 10 % of the groups"),
        ({"accepted": None, "steps": ()}, "poor", "No group was lifted"),
        (
            {"accepted": None, "steps": (replace(litemp_record().steps[0], status="noise"),)},
            "noise",
            "These samples cannot tell",
        ),
    ],
)
def test_headline_of_litemp_that_failed(changes, status, says):
    sources = [Source("", litemp_record(**changes))]
    found = headline(sources, score_tables(sources))
    assert found.status == status
    assert found.sentence.replace("\N{NO-BREAK SPACE}", " ").startswith(says)
    assert found.figures == ()


def test_headline_of_a_baseline_that_failed():
    nothing = {"finding": "nothing acceptable", "accepted": None, "reason": "not even fp16 is acceptable."}
    sources = [Source("", baseline_record(verdict=nothing))]
    found = headline(sources, score_tables(sources))
    assert (found.sentence, found.status) == ("No precision that was scored meets the goal.", "poor")
    assert found.reason == "Not even fp16 is acceptable."


def test_headline_of_an_analysis_names_the_most_sensitive_group():
    sources = [Source("", analysis_record(50, 2))]
    assert group_name(3) in headline(sources, []).sentence
    assert sections(page_of(analysis_record(50, 2, tensors=(), diagnoses=()))) >= {"sensitivity", "diagnosis"}


def test_score_table_has_one_axis_for_all_drops():
    (table,) = score_tables([Source("", baseline_record())])
    float_row, w8a8, w8a16, *_ = table.rows
    assert float_row.whisker is None
    assert (w8a8.word, w8a16.word, w8a16.is_accepted) == ("too much", "meets the goal", True)
    assert w8a8.whisker.zero == w8a16.whisker.zero < w8a16.whisker.drop < w8a8.whisker.goal < w8a8.whisker.drop
    assert w8a8.operations.startswith("6.2")


def test_score_table_marks_a_drop_beyond_its_axis():
    rows = (Row("w8a8", 1.0, 70.8, (69.0, 72.0), "poor", None, 10), *baseline_record().rows[1:])
    (table,) = score_tables([Source("", baseline_record(rows=rows))])
    assert table.rows[1].whisker.is_beyond
    assert table.rows[1].whisker.drop == 1.0
    assert not table.rows[2].whisker.is_beyond


def test_score_table_of_sqnr_has_no_drop():
    goal = {"max_drop": 0.0, "floor": 20.0, "text": "SQNR of at least 20 dB", "is_default": True}
    record = baseline_record(
        metric={**METRIC, "name": "sqnr", "unit": "dB"}, goal=goal, float_row=Row("float", math.nan),
        rows=(Row("w8a8", 16.1, 183.9, None, "poor"), Row("w8a16", 45.2, 154.8, None, "ok")),
    )  # fmt: skip
    (table,) = score_tables([Source("", record)])
    assert not table.has_drop
    assert [row.score for row in table.rows][:1] == ["reference"]
    assert [row.word for row in table.rows] == ["", "too low", "meets the goal"]
    assert "the default" in table.caption


def test_latency_has_a_column_where_it_is_known():
    rows = tuple(replace(row, latency_s=0.0123) for row in baseline_record().rows)
    assert not score_tables([Source("", baseline_record())])[0].has_latency
    assert "12.3 ms" in Reader(page_of(baseline_record(rows=rows))).text


def test_litemp_curve_has_the_goal_and_the_intervals_in_the_unit_of_the_score():
    found = data_of(page_of(litemp_record()))["litemps"][0]
    assert found["threshold"] == pytest.approx(71.37)
    assert [point["percent"] for point in found["points"]] == [0, 5, 10, 20, 100]
    assert found["points"][3]["ends"] == pytest.approx([71.87 - 0.66, 71.87 + 0.02])
    lower = data_of(page_of(litemp_record(metric={**METRIC, "higher_is_better": False})))["litemps"][0]
    assert lower["threshold"] == pytest.approx(72.37)


def test_map_knows_the_profiles_of_the_same_model_only():
    (own,) = data_of(page_of(analysis_record(50, 2), litemp_record(50)))["analyses"]
    assert [profile["label"] for profile in own["profiles"]][1:] == [f"{p} % in w8a16" for p in (5, 10, 20)]
    assert [profile["accepted"] for profile in own["profiles"]] == [False, False, False, True]
    (other,) = data_of(page_of(analysis_record(5, 2), litemp_record(500)))["analyses"]
    assert len(other["profiles"]) == 1


def test_find_sources_joins_a_folder_and_the_folders_inside_it(tmp_path):
    write_records(tmp_path, litemp_record(), analysis_record(3, 2), baseline_record())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "record.json").write_text("nonsense")
    assert [source.folder for source in find_sources(tmp_path)] == ["baseline", "analyze", "litemp"]


def test_models_inside_a_baseline_are_told_by_the_baseline(tmp_path, quantized_folder):
    (tmp_path / "record.json").write_text(baseline_record().to_json())
    (tmp_path / "w8a8").mkdir()
    (tmp_path / "w8a8" / "record.json").write_text((quantized_folder / "record.json").read_text())
    sources = find_sources(tmp_path)
    assert [source.is_detail for source in sources] == [True, False]
    assert len(score_tables(sources)) == 1


def test_report_of_a_quantized_model(quantized_folder, tmp_path):
    path = report(quantized_folder, tmp_path / "page.html")
    text = Reader(path.read_text(encoding="utf-8")).text
    assert "w8a8 scores" in text
    assert isinstance(find_sources(quantized_folder)[0].record, RunRecord)


def test_report_writes_into_the_folder_and_again(tmp_path):
    write_records(tmp_path, baseline_record())
    assert report(tmp_path) == tmp_path / "report.html"
    assert report(str(tmp_path)).read_bytes() == (tmp_path / "report.html").read_bytes()


def test_report_says_that_models_differ(tmp_path):
    write_records(tmp_path, baseline_record(), litemp_record(model={"source": "other.onnx", "sha256": "c" * 64}))
    assert "These runs are of 2 different models" in Reader(report(tmp_path).read_text(encoding="utf-8")).text


def test_report_refuses_a_folder_without_records(tmp_path):
    with pytest.raises(SpecError, match=r"no record\.json in .* or in a folder inside it"):
        report(tmp_path)
    with pytest.raises(SpecError, match="There is no folder"):
        report(tmp_path / "nothing")


def test_report_refuses_a_folder_as_its_file(tmp_path):
    write_records(tmp_path, baseline_record())
    with pytest.raises(OutputError, match=r"it is a folder; name a file with -o '.*report\.html'"):
        report(tmp_path, tmp_path)


def test_the_verb_is_callable_whatever_was_imported_before():
    import fewbits

    assert fewbits.report is report
