"""The page of a whole workflow and the comparison as a person uses them: choosing, clicking, narrow, dark, on paper.

FEWBITS_SCREENSHOTS names a folder that keeps the pictures.
"""

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from browser import ask, needs_chromium
from sample_auto import auto_record, contenders, made_record, write, write_auto
from sample_records import METRIC
from shots import opened

from fewbits.workflow.report import compare, report

pytestmark = needs_chromium

NASTY = "</script><script>window.hacked=1</script><b>\"q\" 'q' &amp; ☃ <!--"
POINTS = """const box=document.querySelector("[data-contest]");
const marks=box.data.findIndex(t=>t.meta);const trace=()=>box.data[marks];
const press=(name,i)=>document.querySelectorAll("[data-"+name+"] button")[i].click();"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return report(write_auto(tmp_path_factory.mktemp("auto") / "run"))


@pytest.fixture(scope="module")
def pages(page, comparison) -> dict[str, Path]:
    return {"auto": page, "compare": comparison}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    write(folder / "a", made_record(), auto_record())
    write(folder / "b", made_record(profile={}), auto_record(chosen="litemp-p20", contenders=contenders()[:9]))
    return compare(folder / "a", folder / "b", folder / "compare.html")


def test_the_chart_of_candidates_follows_its_switches(page):
    said = ask(
        page,
        POINTS
        + """const title=()=>box.layout.xaxis.title.text;say.axes=[title()];say.count=trace().x.length;
        say.near=Math.min(...trace().y);press("contest-range",1);say.all=Math.min(...trace().y);
        for(const i of [1,2]){press("contest-axis",i);say.axes.push(title())}
        say.labels=box.layout.annotations.map(a=>a.text);say.last=[...trace().x].sort()[0];
        say.width=document.documentElement.scrollWidth;""",
    )
    assert said["problems"] == []
    assert said["axes"] == ["bit operations per sample", "weights (MB)", "latency (ms)"]
    assert said["count"] == 12
    assert said["near"] == pytest.approx(71.87 - 4 * 0.5)  # what lies beyond is drawn at the edge
    assert said["all"] == pytest.approx(41.3)
    assert said["last"] == pytest.approx(1.29)
    assert [re.sub(r"\s", " ", text) for text in said["labels"]] == [
        "float 71.87 %", "goal 71.37 %", "limit 1.50 ms", "<b>amp-point07</b>",
    ]  # fmt: skip
    assert said["width"] <= 1280


def test_the_line_joins_what_no_cheaper_candidate_is_as_good_as(page):
    said = ask(
        page,
        POINTS
        + """press("contest-range",1);say.x=box.data[0].x.map(v=>v/1e9);say.y=box.data[0].y;
        say.hollow=trace().marker.symbol.filter(s=>s.endsWith("-open")).length;""",
    )
    assert said["problems"] == []
    assert said["x"] == sorted(said["x"]) == pytest.approx([9.6, 18.4, 19, 19.7, 20.6, 23.4, 38, 77, 77.5])
    assert said["y"] == sorted(said["y"])
    assert said["hollow"] == 6  # those that miss the goal


def test_a_point_opens_its_row(page):
    said = ask(
        page,
        POINTS
        + """const chosen=trace().customdata.findIndex(t=>t.includes("amp-point07"));
        box.emit("plotly_click",{points:[{data:trace(),pointNumber:chosen}]});
        say.found=[...document.querySelectorAll("tr.found .own")].map(r=>r.textContent);
        say.focus=document.activeElement.id;
        box.emit("plotly_click",{points:[{data:trace(),pointNumber:0}]});
        say.again=document.querySelectorAll("tr.found").length;""",
    )
    assert said["problems"] == []
    assert said["found"] == ["amp-point07"]
    assert said["focus"] == "candidate-12"
    assert said["again"] == 1


def test_the_comparison_draws_both_runs(comparison):
    said = ask(
        comparison,
        POINTS
        + """say.count=trace().x.length;say.names=box.data.slice(marks+1).map(t=>t.name.split("/").pop());
        say.chosen=box.layout.annotations.slice(2).map(a=>a.text);say.width=document.documentElement.scrollWidth;""",
    )
    assert said["problems"] == []
    assert said["count"] == 12 + 9
    assert said["names"] == ["a", "b"]
    assert sorted(said["chosen"]) == ["<b>amp-point07</b>", "<b>litemp-p20</b>"]
    assert said["width"] <= 1280


@pytest.mark.parametrize(
    "record",
    [
        auto_record(contenders=(), chosen=""),
        auto_record(contenders=contenders()[:1], chosen="w8a8"),
        auto_record(metric={**METRIC, "higher_is_better": False}),
        auto_record(contenders=tuple(replace(one, bit_operations=None, weight_bytes=0) for one in contenders())),
        auto_record(
            contenders=tuple(replace(one, name=NASTY + one.name, step=NASTY, latency_by=NASTY) for one in contenders()),
            chosen=NASTY + "amp-point07",
        ),
    ],
    ids=["no candidate", "one", "lower is better", "no cost but latency", "hostile names"],
)  # fmt: skip
def test_unusual_runs_have_no_errors(record, tmp_path):
    write(tmp_path, made_record(), record)
    said = ask(report(tmp_path), 'say.hacked=window.hacked===1;say.bold=document.querySelectorAll("td b,th b").length;')
    assert said["problems"] == []
    assert not said["hacked"]
    assert said["bold"] == 0


@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (400, False), (1280, True)])
@pytest.mark.parametrize("kind", ["auto", "compare"])
def test_pages_fit_laptop_and_phone(kind, width, is_dark, pages, tmp_path):
    picture = pictures(tmp_path) / f"{kind}-{width}{'-dark' if is_dark else ''}.png"
    with opened(pages[kind], width, is_dark=is_dark) as tab:
        assert tab.ask("document.documentElement.scrollWidth") == width
        assert tab.ask("document.querySelector('[data-contest] .main-svg').getBoundingClientRect().width") <= width
        tab.picture(picture)
    data = picture.read_bytes()
    assert struct.unpack(">I", data[16:20])[0] == width
    assert len(data) > 100_000


@pytest.mark.parametrize("kind", ["auto", "compare"])
def test_paper_has_no_buttons_and_plots_as_wide_as_its_text(kind, pages, tmp_path):
    paper = pictures(tmp_path) / f"{kind}.pdf"
    with opened(pages[kind], 1280) as tab:
        tab.paper(paper)
        tab.send("Emulation.setEmulatedMedia", media="print")
        # what sorts the table of layers is its heading, too
        buttons = "[...document.querySelectorAll('button,nav')].filter(b=>!b.closest('th'))"
        shown = f"{buttons}.filter(b=>b.offsetHeight>0).length"
        assert tab.ask(shown) == 0
        tab.ask("dispatchEvent(new Event('beforeprint'))")
        wide = "Math.round(document.querySelector('[data-contest] .main-svg').getBoundingClientRect().width)"
        assert tab.ask(wide) == 690
    assert paper.read_bytes().startswith(b"%PDF")
    assert 2 <= paper.read_bytes().count(b"/Type /Page\n") <= 30


def pictures(folder: Path) -> Path:
    kept = Path(os.environ.get("FEWBITS_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    return kept
