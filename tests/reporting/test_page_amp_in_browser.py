"""The figures of automatic mixed precision as a person uses them."""

from dataclasses import replace
from pathlib import Path

import pytest
from browser import ask, needs_chromium
from sample_records import METRIC, amp_record, analysis_record, group_name, write_records
from test_page_in_browser import NASTY

from fewbits.reporting.baseline_record import Row
from fewbits.workflow.report import report

pytestmark = needs_chromium

FIND = """const find=name=>document.querySelector(`[data-${name}="0"]`);
const hover=(name,curve,point)=>{Plotly.Fx.hover(find(name),[{curveNumber:curve,pointNumber:point}]);
 return find(name).querySelector(".hovertext").textContent};"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return report(write_records(tmp_path_factory.mktemp("run"), amp_record(60), analysis_record(60, 4)))


def test_every_figure_is_drawn_without_errors(page):
    said = ask(
        page,
        FIND
        + """say.drawn=[...document.querySelectorAll("#amp .plot")].map(p=>p.querySelectorAll(".main-svg").length>0);
        say.names=find("amp").textContent;say.points=find("amp").querySelectorAll(".points path.point").length;
        say.legend=[...find("amp-legend").children].map(x=>x.textContent);
        say.rows=find("amp-profile").querySelectorAll(".ytick").length;
        say.bars=find("amp-conversions").querySelectorAll(".point path").length;
        say.map=document.getElementById("map-choice").selectedOptions[0].textContent;
        say.hover=hover("amp",1,3);Plotly.Fx.hover(find("amp-profile"),{xval:4,yval:0},"xy");
        say.cell=find("amp-profile").querySelector(".hovertext").textContent;say.width=document.documentElement.scrollWidth;""",
    )
    assert said["problems"] == []
    assert said["drawn"] == [True] * 4
    assert "goal 0.50 %" in said["names"].replace("\N{NO-BREAK SPACE}", " ")
    assert "all w16a16" in said["names"]
    record = amp_record(60)
    scored = [point for point in record.points if point.score is not None]
    assert said["points"] == len(scored) + len(record.points) + len(scored)
    assert said["legend"] == list(record.candidates)
    assert said["rows"] == len(scored)
    assert said["bars"] == len(record.points)
    assert said["map"] == f"precision: point {record.chosen}"
    assert said["hover"].startswith("point 7, accepted")
    assert said["cell"].startswith(group_name(3))
    assert said["cell"].endswith(f"point {record.points[0].number}: w4a8")
    assert "95 % interval" in said["hover"]
    assert "conversions: " in said["hover"]
    assert said["width"] <= 1280


def test_choices_change_what_is_shown(page):
    said = ask(
        page,
        FIND
        + """const top=()=>find("amp")._fullLayout.yaxis.range[1];const rows=()=>find("amp-profile").data[0].z.length;
        say.near=top();find("amp-range").children[1].click();say.all=top();
        say.scored=rows();find("amp-rows").children[1].click();say.every=rows();
        say.tall=find("amp-profile").offsetHeight===find("amp-profile")._fullLayout.height;""",
    )
    assert said["problems"] == []
    assert said["near"] < 3
    assert said["all"] > 12
    assert said["every"] == 18
    assert said["scored"] < 18
    assert said["tall"]


def test_names_are_text_in_its_figures_too(tmp_path):
    plain = amp_record(6)
    rename = {group.name: NASTY + group.name for group in plain.groups}
    record = replace(
        plain, groups=tuple(replace(g, name=rename[g.name]) for g in plain.groups),
        points=tuple(replace(p, profile={rename[k]: v for k, v in p.profile.items()}) for p in plain.points),
        cost={"name": NASTY, "unit": NASTY, "is_estimate": True}, metric={**METRIC, "name": NASTY, "unit": NASTY},
    )  # fmt: skip
    said = ask(
        report(write_records(tmp_path, record)),
        FIND
        + """say.hacked=window.hacked===1;say.axis=find("amp").querySelector(".xtitle").textContent;
        say.hover=hover("amp",1,0);
        const plot=find("amp-profile");Plotly.Fx.hover(plot,{xval:1,yval:0},"xy");
        say.group=plot.querySelector(".hovertext").textContent;""",
    )
    assert said["problems"] == []
    assert not said["hacked"]
    nasty = "".join(NASTY.split())
    for found in (said["axis"], said["hover"], said["group"]):
        assert nasty in "".join(found.split())


_CHEAPEST = replace(amp_record().points[0], predicted=None, drop=0.1, score=71.77, status="ok")
_SQNR = {"max_drop": 0.0, "floor": 20.0, "text": "SQNR of at least 20 dB", "is_default": True}


@pytest.mark.parametrize(
    "record",
    [
        amp_record(1, 1),
        amp_record(points=(_CHEAPEST,), chosen=_CHEAPEST.number, rank_correlation=None),
        amp_record(points=(), chosen=None, is_accepted=False),
        amp_record(is_finished=False, ended="", budget=4e10),
        amp_record(metric={**METRIC, "name": "sqnr", "unit": "dB"}, goal=_SQNR, float_row=Row("float", float("nan"))),
        replace(amp_record(), points=tuple(replace(p, predicted=0.0, measured=0.0) for p in amp_record().points)),
        replace(amp_record(), groups=tuple(replace(g, share_macs=None) for g in amp_record().groups)),
        amp_record(1500, 40),
    ],
    ids=["one group", "no prediction", "no points", "stopped", "sqnr", "no error", "no shapes", "large"],
)
def test_other_runs_have_no_errors(record, tmp_path):
    code = FIND + 'say.drawn=find("amp").querySelectorAll(".main-svg").length>0;'
    said = ask(report(write_records(tmp_path, record)), code)
    assert said == {"problems": [], "drawn": True}
