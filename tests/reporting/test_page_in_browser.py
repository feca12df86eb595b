"""The page as a person uses it: no errors, sorting, searching, choosing, printing."""

from dataclasses import replace
from pathlib import Path

import pytest
from browser import ask, needs_chromium
from sample_records import analysis_record, baseline_record, group_name, litemp_record, write_records

from fewbits.workflow.report import report

pytestmark = needs_chromium

NASTY = "</script><script>window.hacked=1</script><b>\"q\" 'q' &amp; ☃ <!--"
ROWS = """const lines=()=>[...document.querySelectorAll("#layer-table tbody tr")];
const rows=()=>lines().map(row=>[...row.cells].map(cell=>cell.textContent));
const column=name=>[...document.querySelectorAll("#layer-table th button")].find(b=>b.textContent===name);
const type=(id,text)=>{const box=document.getElementById(id);box.value=text;box.dispatchEvent(new Event("input"))};
const choose=(id,value)=>{const box=document.getElementById(id);
 box.value=value;box.dispatchEvent(new Event("change"))};"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return report(write_records(folder, baseline_record(), litemp_record(500), analysis_record(500, 64)))


def test_every_figure_is_drawn_without_errors(page):
    said = ask(
        page,
        """say.drawn=[...document.querySelectorAll(".plot")].map(p=>p.querySelectorAll(".main-svg").length>0);
        say.tiles=document.querySelectorAll("#map-tiles b").length;
        say.points=document.querySelectorAll("#sensitivity-plot .points path").length;
        say.bars=document.querySelectorAll("#histogram-plot .point path").length;
        say.channels=document.querySelectorAll("#channel-plot .point path").length;
        say.width=document.documentElement.scrollWidth;""",
    )
    assert said["problems"] == []
    assert said["drawn"] == [True] * 4
    assert said["tiles"] == 500
    assert said["points"] >= 1500
    assert said["bars"] > 60
    assert said["channels"] == 64
    assert said["width"] <= 1280


def test_the_table_of_layers_sorts_and_turns_pages(page):
    said = ask(
        page,
        ROWS
        + """say.first=rows()[0][1];say.shown=rows().length;column("w8a8 dB").click();say.sorted=rows().map(r=>+r[5]);
        say.aria=document.querySelector("#layer-table th[aria-sort]").textContent;
        column("w8a8 dB").click();say.turned=rows().map(r=>+r[5]);
        document.querySelector("#layer-pager [aria-label='Next page']").click();say.next=rows().map(r=>+r[5]);
        say.count=document.getElementById("layer-count").textContent;""",
    )
    assert said["problems"] == []
    assert (said["first"], said["shown"]) == (group_name(0), 50)
    assert said["sorted"] == sorted(said["sorted"])
    assert said["turned"] == sorted(said["turned"], reverse=True)
    assert said["sorted"][0] < said["turned"][-1]
    assert said["next"][0] <= said["turned"][-1]
    assert said["aria"] == "w8a8 dB"
    assert said["count"] == "51 to 100 of 500 groups"


def test_the_table_of_layers_is_searched_by_group_operator_and_node(page):
    said = ask(
        page,
        ROWS
        + """type("layer-search","BLOCK/42/");say.group=rows().map(r=>r[1]);type("layer-search","layernorm");
        say.count=document.getElementById("layer-count").textContent;type("layer-search",".*");say.none=rows().length;
        type("layer-search","7/Conv_relu");say.node=rows().map(r=>r[1]);""",
    )
    assert said["problems"] == []
    assert said["group"] == [group_name(42)]
    assert said["count"].endswith("of 83 of 500 groups")
    assert said["none"] == 0
    assert said["node"]
    assert all(name.endswith("7/Conv") for name in said["node"])


def test_part_and_map_follow_the_choice(page):
    said = ask(
        page,
        ROWS
        + """say.before=rows()[0][6];document.querySelectorAll("#part-choice button")[2].click();say.after=rows()[0][6];
        say.legend=document.getElementById("map-legend").textContent;choose("map-choice","s:w8a8");
        say.ramp=document.getElementById("map-legend").textContent;
        say.tones=new Set([...document.querySelectorAll("#map-tiles b")].map(b=>b.style.background)).size;
        const tile=document.querySelectorAll("#map-tiles b")[3];
        tile.dispatchEvent(new MouseEvent("mousemove",{bubbles:true,clientX:5,clientY:5}));
        say.tip=document.getElementById("tip").textContent;tile.click();say.found=rows().map(r=>r[1]);""",
    )
    assert said["problems"] == []
    assert float(said["after"]) > float(said["before"]) + 10
    assert "w8a8: 400 groups" in said["legend"]
    assert "w8a16: 100 groups" in said["legend"]
    assert "and less" in said["ramp"]
    assert said["tones"] > 50
    assert said["tip"].startswith(group_name(3))
    assert said["found"] == [group_name(3)]


def test_a_diagnosis_leads_to_its_tensor(page):
    said = ask(
        page,
        ROWS
        + """const choice=document.getElementById("tensor-choice");
        const chosen=()=>choice.selectedOptions[0].textContent;
        say.options=choice.options.length;say.first=chosen();
        document.querySelectorAll("[data-tensor]")[1].click();say.second=chosen();
        document.getElementById("tensor-next").click();say.third=chosen();
        say.notes=document.getElementById("channel-plot").textContent;
        type("tensor-search","block/9/");say.found=choice.options.length;choose("tensor-order","error");
        document.querySelector("[data-show-all]").click();
        say.shown=[...document.querySelectorAll(".diagnoses li")].every(li=>li.offsetHeight>0);""",
    )
    assert said["problems"] == []
    assert said["options"] == 1000
    assert said["first"].startswith(f"{group_name(3)}_output_0 (activation, ")
    assert said["second"].startswith(f"{group_name(20)}_output_0")
    assert said["third"] == f"{group_name(20)}.weight (weight)"
    assert said["found"] == 2
    assert said["shown"]


def test_the_axis_of_the_litemp_curve_follows_the_choice(page):
    said = ask(
        page,
        """const title=()=>document.querySelector("[data-litemp] .xtitle").textContent;say.first=title();
        document.querySelectorAll("[data-litemp-axis] button")[2].click();say.last=title();
        say.labels=document.querySelector("[data-litemp]").textContent;""",
    )
    assert said["problems"] == []
    assert (said["first"], said["last"]) == ("groups lifted (%)", "bit operations (% of float)")
    assert "goal 71.37" in said["labels"]


def test_figures_fit_paper(page):
    said = ask(
        page,
        """const svg=()=>document.querySelector("#sensitivity-plot .main-svg");
        const wide=()=>Math.round(svg().getBoundingClientRect().width);
        say.screen=wide();dispatchEvent(new Event("beforeprint"));say.paper=wide();
        say.open=[...document.querySelectorAll("details.run")].every(d=>d.open);
        dispatchEvent(new Event("afterprint"));say.again=wide();
        say.closed=[...document.querySelectorAll("details.run")].every(d=>!d.open);""",
    )
    assert said["problems"] == []
    assert said["paper"] == 690
    assert said["screen"] == said["again"] > 1000
    assert said["open"]
    assert said["closed"]


def test_several_analyses_are_chosen_from(tmp_path):
    for name, groups in (("before", 20), ("after", 30)):
        record = analysis_record(groups, 4, created=f"2025-0{groups // 10}-01T00:00:00+00:00")
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(record.to_json())
    said = ask(
        report(tmp_path),
        """const tiles=()=>document.querySelectorAll("#map-tiles b").length;say.last=tiles();
        const box=document.querySelector("[data-analysis-choice]");box.value="0";box.dispatchEvent(new Event("change"));
        say.first=tiles();say.count=document.getElementById("layer-count").textContent;
        say.captions=[...document.querySelectorAll("p[data-analysis]")].map(p=>p.hidden);""",
    )
    assert said["problems"] == []
    assert (said["last"], said["first"], said["count"]) == (30, 20, "20 groups")
    assert said["captions"] == [False, True]


def test_names_are_text_in_the_browser_too(tmp_path):
    plain = analysis_record(20, 4)
    record = replace(
        plain, groups=tuple(replace(g, name=NASTY + g.name, op=NASTY) for g in plain.groups),
        tensors=tuple(replace(t, name=NASTY + t.name, group=NASTY + t.group) for t in plain.tensors),
        diagnoses=tuple(replace(d, tensor=NASTY + d.tensor) for d in plain.diagnoses),
    )  # fmt: skip
    said = ask(
        report(write_records(tmp_path, record)),
        """say.hacked=window.hacked===1;say.name=document.querySelector("#layer-table td.name").textContent;
        say.tensor=document.getElementById("tensor-choice").selectedOptions[0].textContent;
        Plotly.Fx.hover("sensitivity-plot",[{curveNumber:0,pointNumber:3}]);
        say.hover=document.querySelector("#sensitivity-plot .hovertext").textContent;
        say.bold=document.querySelectorAll("td b, option b").length;""",
    )
    assert said["problems"] == []
    assert not said["hacked"]
    assert said["name"] == NASTY + plain.groups[0].name
    assert said["tensor"].startswith(NASTY + plain.diagnoses[0].tensor)
    assert said["bold"] == 0
    assert "".join(NASTY.split()) in "".join(said["hover"].split())


@pytest.mark.parametrize(
    "record",
    [
        baseline_record(),
        litemp_record(high_row=None, steps=(), accepted=None),
        analysis_record(1, 1, tensors=()),
        analysis_record(2, 3, precisions=("w8a8",), probes=0, method="brute-force"),
    ],
    ids=["no figures", "no steps", "no tensors", "two groups"],
)
def test_small_pages_have_no_errors(record, tmp_path):
    assert ask(report(write_records(tmp_path, record)), "")["problems"] == []
