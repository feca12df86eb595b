"""The page of a whole workflow, and its line in the list of runs."""

import json
import math
import re
from dataclasses import asdict, replace
from importlib import resources

import pytest
from sample_auto import FORKS, PREFLIGHT, auto_record, contenders, made_record, preflight_record, write, write_auto
from sample_records import METRIC, baseline_record, group_name, litemp_record, write_records
from test_page import NASTY, Reader, data_of

from fewbits.errors import SpecError
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.html.auto import auto_view
from fewbits.reporting.html.chosen import default_precision, parts
from fewbits.reporting.html.page import MOST_BYTES, render
from fewbits.reporting.html.sources import Source, find_sources
from fewbits.reporting.html.tables import score_tables
from fewbits.reporting.html.text import SPACE, capital
from fewbits.reporting.html.verdict import headline
from fewbits.reporting.read import read_any
from fewbits.reporting.record import plain
from fewbits.workflow.report import report
from fewbits.workflow.runs import runs

NEW = {"path", "candidates", "profile", "checks", "outlook", "again", "next"}


def page_of(record=None, made=None, **changes):
    return render([Source("", record or auto_record(**changes), made=made)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_auto(tmp_path_factory.mktemp("auto") / "run")


def test_find_sources_of_an_auto_run_finds_its_steps_two_levels_deep(folder):
    sources = find_sources(folder)
    assert [source.folder for source in sources if not source.is_detail] == [
        "improve", "baseline", "analysis", "litemp", "again/litemp", "amp", "",
    ]  # fmt: skip
    details = {source.folder for source in sources if source.is_detail}
    assert details == {"baseline/w8a8", "baseline/w8a16", "litemp/p05", "litemp/p20", "amp/point07"}
    assert [source.folder for source in sources if not source.is_part] == [""]
    assert sources[-1].made == replace(made_record(), **shared_facts())


def shared_facts():
    """Return what a merged record says in the words of the run, not of the model."""
    record = auto_record()
    return {name: getattr(record, name) for name in ("verb", "options", "data", "notes", "timings")}


def test_the_page_has_its_sections_once_and_the_charts_of_the_steps(folder):
    path = report(folder)
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    assert set(reader.ids) >= NEW | {"verdict", "amp", "litemp", "weights", "sensitivity", "layers", "settings"}
    assert "scores" not in reader.ids
    assert len(reader.ids) == len(set(reader.ids))
    links = {link[1:] for link in reader.links if link.startswith("#")}
    assert links <= set(reader.ids)
    assert all(link.startswith("#") for link in reader.links)
    assert path.stat().st_size < MOST_BYTES
    assert page.count('class="whisker"') == len(contenders())


def test_a_run_without_steps_on_disk_has_a_page_too():
    reader = Reader(page_of())
    assert set(reader.ids) >= NEW - {"profile"}
    assert not {"profile", "amp", "litemp", "weights"} & set(reader.ids)
    assert not [link for link in reader.links if link[1:] not in reader.ids]


def test_summary_verdict_and_reproduction_are_said_in_full(folder):
    record, text = auto_record(), Reader(report(folder).read_text(encoding="utf-8")).text
    for sentence in record.summary:
        assert text.count(sentence) == 1
    assert "All goals are met" in text
    assert text.count(record.command) == 1
    for digest in ("a" * 64, "b" * 64, "e" * 64, "c" * 64):
        assert digest in text
    for why, command in record.next_steps:
        assert capital(why) in text
        assert command in text
    assert "Not all goals are met" in Reader(page_of(is_met=False)).text


def test_every_fork_is_a_step_with_its_reason_and_outcome(folder):
    view = auto_view(find_sources(folder))
    assert [step.step for step in view.path] == ["baseline", "litemp", "improve", "amp", ""]
    assert [step.link for step in view.path] == ["", "litemp", "weights", "amp", ""]
    text = Reader(page_of(made=made_record())).text
    for fork in FORKS:
        assert capital(fork.why) in text
        assert capital(fork.found) in text
    assert "86.2 s, 5 models scored" in text


def test_candidates_are_rows_and_points_that_name_each_other():
    page = page_of()
    (chart,) = data_of(page)["contests"]
    ids = Reader(page).ids
    assert [point["name"] for point in chart["points"]] == [one.name for one in contenders()]
    assert all(point["row"] in ids for point in chart["points"])
    assert [axis[0] for axis in chart["axes"]] == ["operations", "bytes", "latency:sm8550, estimated"]
    assert chart["kinds"] == ["baseline", "litemp", "improve", "amp"]
    assert chart["levels"] == [["float", 71.87, False], ["goal", 71.37, True]]
    assert chart["points"][0]["ends"] == pytest.approx([71.87 - 2.2085, 71.87 - 1.3315])
    assert [point["name"] for point in chart["points"] if point["isChosen"]] == ["amp-point07"]
    assert chart["maxLatency"] == 1.5


def test_latency_is_offered_only_where_it_is_known():
    silent = tuple(replace(one, latency_ms=None, latency_by="") for one in contenders())
    page = page_of(contenders=silent)
    assert [axis[0] for axis in data_of(page)["contests"][0]["axes"]] == ["operations", "bytes"]
    assert "latency" not in {name for name, _ in auto_view([Source("", auto_record(contenders=silent))]).figures}
    mixed = (replace(silent[0], latency_ms=2.0, latency_by="ort"), *contenders()[1:])
    axes = data_of(page_of(contenders=mixed))["contests"][0]["axes"]
    assert [axis[1] for axis in axes[2:]] == ["Latency, ONNX Runtime", "Latency, sm8550, estimated"]


def test_scores_that_are_lower_the_better_keep_their_direction():
    (chart,) = data_of(page_of(metric={**METRIC, "higher_is_better": False}))["contests"]
    assert not chart["higher"]
    assert chart["levels"][1][1] == pytest.approx(72.37)
    low, high = chart["points"][0]["ends"]
    assert low < high


@pytest.mark.parametrize("score", [200.0, math.nan])
def test_an_sqnr_has_no_float_level_and_no_drop(score):
    goal = {"max_drop": 0.0, "floor": 20.0, "text": "SQNR of at least 20 dB", "is_default": True}
    record = auto_record(metric={**METRIC, "name": "sqnr", "unit": "dB"}, goal=goal, float_row=Row("float", score))
    assert data_of(page_of(record))["contests"][0]["levels"] == [["goal", 20.0, True]]
    assert "drop" not in dict(auto_view([Source("", record)]).figures)


def test_parts_of_the_chosen_model_name_the_nodes_of_their_own():
    made = made_record(50)
    found = {part.precision: part for part in parts(made)}
    assert found["w8a8"].nodes == ()
    assert set(found["w4a8"].nodes) == {group_name(i) for i in range(5, 50, 17)}
    assert found["fp32"].nodes == ()  # told with its reason
    assert sum(part.count for part in found.values()) == 100
    assert default_precision(replace(made, options={})) == "w8a8"
    assert "/head/TopK" in Reader(page_of(made=made)).text


def test_the_map_shows_the_chosen_model_of_the_same_network_only(folder):
    sources = list(find_sources(folder))
    assert data_of(render(sources))["analyses"][0]["profiles"][1]["label"] == "chosen model"
    other = replace(sources[-1], record=auto_record(model={"source": "other.onnx", "sha256": "9" * 64}))
    labels = [p["label"] for p in data_of(render([*sources[:-1], other]))["analyses"][0]["profiles"]]
    assert "chosen model" not in labels


def test_checks_are_told_apart_by_their_first_word():
    view = auto_view([Source("", auto_record())])
    assert [status for _, _, status in view.checks] == ["poor", "ok", ""]
    assert "Nothing was checked" in Reader(page_of(checks={})).text


def test_preflight_is_set_against_what_was_needed():
    view = auto_view([Source("", auto_record())])
    (time, memory) = view.outlook.bars
    assert (time[1], time[2]) == ("81.2\N{NO-BREAK SPACE}s", "86.2\N{NO-BREAK SPACE}s")
    assert (memory[1], memory[2], memory[3]) == ("2.5\N{NO-BREAK SPACE}GB", "2.2\N{NO-BREAK SPACE}GB", 1.0)
    assert dict(view.outlook.facts)["told from noise"].replace("\N{NO-BREAK SPACE}", " ") == "drops of 0.42 % and more"
    for sentence in PREFLIGHT["warnings"]:
        assert sentence in Reader(page_of()).text
    unknown = auto_view([Source("", auto_record(preflight=preflight_record(peak_mb=None, resolution=None)))])
    assert unknown.outlook.bars[1][1] == "–"
    assert "outlook" not in Reader(page_of(preflight=None)).ids


def test_a_preflight_that_cannot_be_read_is_one_sentence(tmp_path):
    document = plain(asdict(auto_record()))
    document["preflight"]["seconds"] = "soon"
    (tmp_path / "record.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(
        SpecError, match=r"preflight\.seconds is 'soon' and must be a number\. Run `fewbits auto` again"
    ):
        read_any(tmp_path / "record.json")


def test_names_from_outside_are_escaped_everywhere():
    plain = auto_record()
    record = replace(
        plain,
        contenders=tuple(
            replace(one, name=NASTY + one.name, step=NASTY, precision=NASTY, folder=NASTY, latency_by=NASTY)
            for one in plain.contenders
        ),
        forks=tuple(replace(f, step=NASTY, why=NASTY, found=NASTY, folder=NASTY) for f in plain.forks),
        chosen=NASTY + plain.chosen, summary=(NASTY, NASTY, NASTY), checks={NASTY: NASTY, "b": f"failed {NASTY}"},
        command=NASTY, next_steps=((NASTY, NASTY),), notes=(NASTY,), options={NASTY: NASTY}, aim=NASTY, target=NASTY,
        model={"source": NASTY, "sha256": NASTY}, data={NASTY: {"name": NASTY, "fingerprint": NASTY}}, created=NASTY,
        versions={NASTY: NASTY}, machine={NASTY: NASTY}, timings={NASTY: 1.0},
        metric={**METRIC, "name": NASTY, "unit": NASTY}, goal={**plain.goal, "text": NASTY},
        preflight=preflight_record(
            parts={NASTY: 1.0}, outliers=[{"sample": 1, "tensor": NASTY, "factor": 2.0}], missing_classes=[NASTY],
            warnings=[NASTY],
        ),
    )  # fmt: skip
    made = made_record(profile={NASTY: "w8a16", "a": NASTY}, precision={"w8a8": 3, "w8a16": 1, NASTY: 1},
                       declined={NASTY: [NASTY]}, files={NASTY: {"sha256": NASTY, "bytes": 1}})  # fmt: skip
    page, clean = page_of(record, made), page_of(plain, made_record())
    reader, tidy = Reader(page), Reader(clean)
    assert set(reader.tags) == set(tidy.tags)
    assert reader.tags.count("script") == tidy.tags.count("script") == 3
    assert "window.hacked=1</script>" not in page
    assert NASTY in reader.text
    assert data_of(page)["contests"][0]["points"][0]["name"] == NASTY + plain.contenders[0].name
    assert not re.search(r"\son\w+=", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).split("<main")[1])


def test_a_folder_with_an_auto_run_and_others_is_headed_by_it(tmp_path):
    write_records(tmp_path, baseline_record(), litemp_record())
    write(tmp_path / "auto", made_record(), auto_record())
    sources = find_sources(tmp_path)
    assert not any(source.is_part for source in sources)
    assert headline(sources, score_tables(sources)).sentence == auto_record().summary[0]
    reader = Reader(report(tmp_path).read_text(encoding="utf-8"))
    assert {"scores", "candidates"} <= set(reader.ids)
    assert "w8a16 is the lowest precision that meets the goal." in reader.text


def test_settings_of_steps_do_not_repeat_those_of_the_whole(folder):
    page = report(folder).read_text(encoding="utf-8")
    settings = Reader(page[page.index('<section id="settings">') :]).text
    assert settings.count("mobilenet.onnx") == 2  # as model and as option of the whole
    assert Reader(page).text.count("onnxruntime") == 1


def test_runs_tells_an_auto_run_in_one_line(folder, tmp_path):
    (run,) = runs(folder.parent)
    assert (run.verb, run.state, run.result) == ("auto", "finished", "met: amp-point07, 71.46 % (12 scored)")
    write(tmp_path / "a", auto_record(is_met=False))
    write(tmp_path / "b", auto_record(chosen=""))
    assert {r.result for r in runs(tmp_path)} == {
        "not met: amp-point07, 71.46 % (12 scored)", "nothing chosen (12 scored)",
    }  # fmt: skip


def test_capital_leaves_names_as_they_are():
    assert [capital(said) for said in ("better weights", "w8a8 is", "litemp-p20 meets", "")] == [
        "Better weights", "w8a8 is", "litemp-p20 meets", "",
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme):
    """Source: WCAG 2.2, 1.4.3 level AA: 4.5 to 1 for text, by relative luminance."""
    style = resources.files("fewbits.reporting.html").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme: dark", 1)
    tones = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    for text in ("ink", "soft", "link", "ok", "noise", "poor"):
        for ground in ("paper", "wash"):
            assert contrast(tones[text], tones[ground]) >= 4.5, (text, ground)


def contrast(one, other):
    def luminance(tone):
        parts = [int(tone[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_record_reads_back_whatever_was_merged_under_it(folder):
    document = json.loads((folder / "record.json").read_text())
    assert {"profile", "forks"} <= document.keys()
    assert find_sources(folder)[-1].record == auto_record()
    assert asdict(auto_record())["verb"] == "auto"


def test_the_verdict_does_not_break_between_a_number_and_its_unit():
    page = page_of(summary=("w8a8 meets the goals: 71.46 %, 1.41 ms.", "It takes 2 GB and 3 Messages."))
    assert f"<h1>w8a8 meets the goals: 71.46{SPACE}%, 1.41{SPACE}ms.</h1>" in page
    assert f"It takes 2{SPACE}GB and 3 Messages." in page
