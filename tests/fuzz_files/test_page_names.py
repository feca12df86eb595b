"""The pages of every verb: a name that is markup in HTML, in a script or in JSON is text there."""

import json
import re
from dataclasses import asdict, replace
from importlib import resources

import onnx
import pytest
from borrowed import tiny_model
from sample_auto import auto_record, made_record, write_auto
from sample_records import amp_record, analysis_record, baseline_record, litemp_record, write_records
from test_certificates import place_certificate
from test_page import Reader, data_of

from fewbits.artifact import names
from fewbits.deployment.certificate import Certificate, OutputParity
from fewbits.reporting.record import plain
from fewbits.workflow.report import compare, report

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\u2028\u2029</title></style><svg onload=alert(1)>",
    "<!--<script>{{ 7 * 7 }}${7*7}",
)
NASTY = "".join(HOSTILE)
PAIR = ((NASTY, NASTY),)
SHARED = {
    "target": NASTY,
    "created": NASTY,
    "notes": (NASTY,),
    "options": {NASTY: NASTY},
    "versions": {NASTY: NASTY},
    "machine": {NASTY: NASTY},
    "timings": {NASTY: 1.0},
    "model": {"source": NASTY, "sha256": NASTY},
    "data": {NASTY: {"name": NASTY, "fingerprint": NASTY, "samples": 3}},
}
METHOD = {
    "name": NASTY,
    "reason": NASTY,
    "seconds": 1.0,
    "changed": 2,
    "objective": [2.0, 1.0],
    "layers": [[NASTY, 2.0, 1.0]],
    "output": {"error": 0.1, "sqnr_db": 10.0},
    "score": 70.0,
    "kept": True,
    "declined": {NASTY: [NASTY]},
}
IMPROVEMENT = {"methods": [METHOD], "precision": NASTY, "next_steps": [[NASTY, NASTY]], "before": 70.0, "after": 71.0}


def hostile(record, **changes):
    return replace(record, **SHARED, **changes)


RECORDS = {
    "baseline": lambda: hostile(baseline_record(), refused={NASTY: NASTY}, next_steps=PAIR),
    "analyze": lambda: hostile(
        analysis_record(6, 4),
        groups=tuple(replace(g, name=NASTY + g.name, op=NASTY, nodes=(NASTY,)) for g in analysis_record(6, 4).groups),
        tensors=tuple(replace(t, name=NASTY + t.name, group=NASTY) for t in analysis_record(6, 4).tensors),
    ),
    "litemp": lambda: hostile(litemp_record(6), reason=NASTY, base=NASTY, high=NASTY, next_steps=PAIR),
    "amp": lambda: hostile(
        amp_record(6, 6), reason=NASTY, ended=NASTY, next_steps=PAIR, cost={"name": NASTY, "unit": NASTY}
    ),
    "improve": lambda: hostile(
        made_record(6), improvement=IMPROVEMENT, profile={NASTY: NASTY}, declined={NASTY: [NASTY]}
    ),
    "auto": lambda: hostile(
        auto_record(), summary=(NASTY, NASTY), checks={NASTY: NASTY}, command=NASTY, next_steps=PAIR
    ),
}


@pytest.fixture(autouse=True)
def _without_plotly(monkeypatch):
    """Plotly is 5 MB, the same on every page; `tests/reporting` looks at it."""
    monkeypatch.setattr("fewbits.reporting.html.page.plotly", lambda: "")
    monkeypatch.setattr("fewbits.reporting.html.compare.plotly", lambda: "", raising=False)


class Elements(Reader):
    """What a browser would make of a page: tags, and the names of their attributes."""

    def __init__(self, page: str):
        self.attributes: set[str] = set()
        super().__init__(page)

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}
        super().handle_starttag(tag, attrs)


def own_tags() -> set[str]:
    """Return the tags that the templates have."""
    folder = resources.files("fewbits.reporting.html")
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.endswith(".j2")]
    return {tag for text in texts for tag in re.findall(r"<([a-z][a-z0-9]*)", text)}


def check(page: str) -> None:
    """The page has no element and no attribute but those of the templates, and shows the names as text."""
    found = Elements(page)
    assert set(found.tags) <= own_tags()
    assert "img" not in own_tags()
    assert not [name for name in found.attributes if name.startswith("on")]
    assert found.tags.count("script") == (3 if 'id="data"' in page else 1)
    assert (found.tags.count("style"), found.tags.count("title")) == (1, 1)
    assert "window.hacked=1</script>" not in page
    assert "{{ 7 * 7 }}${7*7}" in found.text  # no template was filled in
    assert HOSTILE[0] in found.text
    assert all(link.startswith("#") for link in found.links)


@pytest.mark.parametrize("verb", RECORDS)
def test_names_are_text_on_the_page_of(verb, tmp_path):
    write_records(tmp_path, RECORDS[verb]())
    page = report(tmp_path).read_text(encoding="utf-8")
    check(page)
    if verb in ("analyze", "amp"):
        assert HOSTILE[0] in json.dumps(data_of(page), ensure_ascii=False)


def test_names_are_text_on_the_page_that_compares(tmp_path):
    write_auto(tmp_path / "a", RECORDS["auto"](), groups=6)
    write_auto(tmp_path / "b", auto_record(), groups=6)
    check(compare(tmp_path / "a", tmp_path / "b", tmp_path / "x.html").read_text(encoding="utf-8"))


def test_names_are_text_in_certificates(tmp_path):
    write_records(tmp_path, baseline_record(target=NASTY))
    conditions = {"machine": {NASTY: NASTY}, "dims": {NASTY: 2}}
    here = Certificate(True, 4, {NASTY: OutputParity(40, 0, None, 25.0, 12.5)}, conditions)
    there = place_certificate(place=NASTY, reference=NASTY)
    for file, found in ((names.CERTIFICATE, here), (names.PLACE_CERTIFICATES["qnn-htp"], there)):
        (tmp_path / file).write_text(json.dumps(plain(asdict(found))))
    check(report(tmp_path).read_text(encoding="utf-8"))


def test_a_model_with_hostile_names_gives_a_page_and_files_that_work(tiny, tmp_path):
    from fewbits import analyze, quantize

    model = tiny_model()
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.name = NASTY + node.name
        for names_of in (node.input, node.output):
            for place, name in enumerate(names_of):
                if name not in ("image", "logits"):
                    names_of[place] = NASTY + name
    for tensor in model.graph.initializer:
        tensor.name = NASTY + tensor.name
    onnx.save(model, tmp_path / "m.onnx")
    quantize(tmp_path / "m.onnx", data=tiny.calib, profile={NASTY + "head": "w8a16"}, output=tmp_path / "run" / "q")
    analyze(tmp_path / "m.onnx", data=tiny.calib, method="brute-force", output=tmp_path / "run" / "a")
    page = report(tmp_path / "run").read_text(encoding="utf-8")
    check(page)
    assert NASTY + "conv1" in data_of(page)["analyses"][0]["groups"]["name"]
