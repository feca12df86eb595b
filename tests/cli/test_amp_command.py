"""The commands amp and runs, and export of a point: what they print, and what they refuse."""

import csv
import json

import numpy as np
import pytest
from command_line import fewbits, ok, refused, words
from typer.testing import CliRunner

from fewbits.artifact import names
from fewbits.artifact.folder import sha256
from fewbits.cli import app
from fewbits.runtime.store import STORE

WIDE = {"COLUMNS": "220"}


def arguments(tiny, output, *more, goal=("--min-sqnr", 51.5)):
    fixed = ("--metric", "sqnr", "--ranking", "brute-force", "--ranges", "minmax", "--threads", 1)
    return ("amp", tiny.model, "--data", tiny.calib, *fixed, *goal, "-o", output, *more)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """Output folder of one run, and what it printed."""
    folder = tmp_path_factory.mktemp("amp") / "run"
    result = CliRunner().invoke(app, words(*arguments(tiny, folder)), env=WIDE)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def record_of(folder):
    return json.loads((folder / names.RECORD).read_text())


def test_the_table_shows_every_point_that_was_scored(run):
    folder, printed = run
    record, lines = record_of(folder), printed.splitlines()
    assert lines[0].endswith("tiny.onnx for qnn-htp-v73, w8a8, w8a16, fp16")
    assert lines[1].strip() == "sqnr on 24 samples, scored on the calibration data; goal: SQNR of at least 51.5 dB"
    scored = [point for point in record["points"] if point["score"] is not None]
    rows = {line.split()[0].rstrip("*"): line for line in lines[4 : 4 + len(scored)]}
    assert list(rows) == [str(point["number"]) for point in scored]
    costliest = max(point["cost"] for point in record["points"])
    for point in scored:
        row = rows[str(point["number"])]
        assert f"{point['cost'] / costliest:.1%}" in row
        assert f"{point['score']:.2f} dB" in row
        assert f" {point['predicted']:.2g} " in row
        assert f" {point['measured']:.2g} " in row
        assert row.rstrip().endswith({"ok": "ok", "poor": "too much"}[point["status"]])
        assert ("*" in row.split()[0]) == (point["number"] == record["chosen"])


def test_the_conclusion_is_below_the_table(run):
    folder, printed = run
    record, lines = record_of(folder), printed.splitlines()
    assert any(line.startswith(f"accepted: point {record['chosen']}, ") for line in lines)
    assert f"  because {record['reason']}" in printed
    assert f"the search ended: {record['ended']}" in lines
    assert any(
        line.startswith(f"{record['evaluations']} profiles scored, {len(record['points'])} con") for line in lines
    )
    assert f"files of point {record['chosen']} in {folder}; report: {folder / 'report.html'}" in lines
    assert f"  fewbits verify {folder}" in lines
    assert any(line.startswith("time: ") or " s" in line for line in lines[-1:])
    assert "note: " not in printed


def test_a_second_run_says_what_it_knew(tiny, run, tmp_path):
    import shutil

    shutil.copytree(run[0], tmp_path / "run")
    printed = ok(*arguments(tiny, tmp_path / "run")).stdout
    count = record_of(run[0])["evaluations"]
    assert f"{count} profiles scored ({count} of them in an earlier run)" in " ".join(printed.split())


def test_a_run_without_success_says_so(tiny, tmp_path):
    printed = ok(*arguments(tiny, tmp_path / "r", "--max-evaluations", 1, goal=("--min-sqnr", 70))).stdout
    assert "none accepted, the best is: point 1, 100% w8a8" in printed
    assert "the search ended: the 1 evaluations that were allowed are used up" in printed


def test_one_json_object_is_printed(tiny, tmp_path):
    result = ok(*arguments(tiny, tmp_path / "r", "--json", "--candidates", "w8a8,w8a16"))
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert (document["verb"], document["output"]) == ("amp", str(tmp_path / "r"))
    assert document["scored_now"] == document["evaluations"] + 1
    written = record_of(tmp_path / "r")
    assert document["points"] == written["points"]
    assert document["candidates"] == ["w8a8", "w8a16"]


def test_quiet_prints_nothing(tiny, tmp_path):
    result = ok(*arguments(tiny, tmp_path / "r", "-q", goal=("--min-sqnr", 40)))
    assert (result.stdout, result.stderr) == ("", "")
    assert (tmp_path / "r" / names.ARTIFACT).is_file()


def test_options_reach_the_search(tiny, tmp_path):
    options = ("--keep", "fp16:head", "--keep", "fp16:pool", "--at-least", "w8a16:conv1", "--max-share", "fp16=50%")
    options += ("--budget", "120%", "--time", "1h", "--cost", "bytes", "--max-evaluations", 3, "--at-once", 1)
    options += ("--rank-samples", 5, "--json")
    document = json.loads(ok(*arguments(tiny, tmp_path / "r", *options)).stdout)
    for point in document["points"]:
        assert (point["profile"]["head"], point["profile"]["pool"]) == ("fp16", "fp16")
        assert point["profile"]["conv1"] in {"w8a16", "fp16"}
        assert point["shares"].get("fp16", 0) <= 0.5
    assert document["cost"]["name"] == "bytes"
    assert document["evaluations"] <= 3
    given = document["options"]
    assert (given["max_evaluations"], given["at_once"], given["rank_samples"], given["time_limit"]) == (3, 1, 5, "1h")


def test_a_point_is_exported(run, tmp_path):
    folder = run[0]
    points = record_of(folder)["points"]
    scored = next(point for point in points if point["score"] is not None)
    printed = ok("export", folder, "--point", scored["number"], "-o", tmp_path / "out").stdout
    assert str(tmp_path / "out") in " ".join(printed.split())
    assert sha256(tmp_path / "out" / names.ARTIFACT) == sha256(folder / scored["folder"] / names.ARTIFACT)
    predicted = next(point for point in points if point["score"] is None)
    line = refused("export", folder, "--point", predicted["number"], "-o", tmp_path / "no")
    assert f"Point {predicted['number']} was predicted and not scored, it has no files: those with files are" in line
    assert not (tmp_path / "no").exists()


def test_runs_are_listed(run):
    folder = run[0]
    document = json.loads(ok("runs", folder.parent, "--json").stdout)
    (row,) = document["runs"]
    assert (row["folder"], row["verb"], row["state"]) == (str(folder), "amp", "finished")
    assert row["result"].startswith("accepted: ")
    printed = CliRunner().invoke(app, words("runs", folder.parent), env=WIDE).stdout
    assert "1 runs in" in printed
    assert row["result"] in printed
    assert ok("runs", folder.parent, "-q").stdout == ""
    assert "There is no folder" in refused("runs", folder / "none")


BAD = {
    "precision": (["--candidates", "w8a8,w9a9"], ["Unknown precision 'w9a9'", "w8a16"]),
    "one candidate": (["--candidates", "w8a8"], ["nothing to choose from", "two or more candidates"]),
    "no candidate": (["--candidates", ""], ["nothing to choose from"]),
    "only commas": (["--candidates", " , ,"], ["nothing to choose from"]),
    "float": (["--candidates", "w8a8,fp32"], ["fp32 is the float model itself", "--keep fp32:NAME"]),
    "budget": (["--budget", "cheap"], ["The budget 'cheap' is no cost", "60%"]),
    "negative budget": (["--budget", "-5%"], ["The budget '-5%' is no cost"]),
    "small budget": (
        ["--budget", "1000"],
        ["No assignment costs 1000 bit operations or less", "cheapest possible costs"],
    ),
    "share": (["--max-share", "w8a16"], ["--max-share 'w8a16' is no share", "w8a16=20%"]),
    "share of no candidate": (["--max-share", "w4a8=5%"], ["limits w4a8, which is no candidate", "w8a8"]),
    "shares": (
        ["--max-share", "w8a8=10%", "--candidates", "w8a8,fp16", "--max-share", "fp16=10%"],
        ["cannot hold tog"],
    ),
    "cost": (["--cost", "bitop"], ["Unknown cost 'bitop'", "Did you mean 'bitops'?"]),
    "cost of no chip": (["--cost", "qnn-estimate:soc1"], ["soc1"]),
    "table": (["--cost", "none.csv"], ["none.csv' does not exist"]),
    "broken table": (["--cost", "short.csv"], ["short.csv"]),
    "keep nothing": (["--keep", "fp16:haed"], ["--keep: no node", "'haed'", "One of them is 'head'"]),
    "keep without pattern": (["--keep", "fp16"], ["--keep 'fp16' names no nodes", "fp16:head/*"]),
    "keep both": (["--keep", "fp16:head", "--keep", "w8a8:he*"], ["--keep wants group 'head'", "leave one of the two"]),
    "at least nothing": (["--at-least", "fp16:haed"], ["--at-least: no node", "'haed'"]),
    "at least too wide": (["--at-least", "w16a16:head", "--candidates", "w8a8,w8a16"], ["no candidate is as wide"]),
    "time": (["--time", "soon"], ["The time 'soon' is none", "90s, 10m or 1.5h"]),
    "no time": (["--time", "0"], ["The time '0' is none"]),
    "ranking": (["--ranking", "by-name"], ["Unknown ranking 'by-name'"]),
    "evaluations": (["--max-evaluations", "0"], ["--max-evaluations", "--help"]),
    "at once": (["--at-once", "none"], ["--at-once", "--help"]),
    "goal": (["--max-drop", "0.5"], ["The metric sqnr has no drop", "--min-sqnr 20"]),
    "output": (["-o", "/proc/amp"], ["/proc/amp", "cannot be used", "Choose a folder"]),
    "model": (["--target", "none"], ["Unknown target 'none'"]),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_options_end_in_one_sentence(tiny, tmp_path, monkeypatch, mistake):
    options, said = BAD[mistake]
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "short.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["group", "precision", "cost"], ["conv1", "w8a8", 1]])
    line = refused(*arguments(tiny, "out", *options))
    assert not [word for word in said if word not in line], line
    assert not (tmp_path / "out" / names.RECORD).exists()


def test_a_refusal_leaves_an_earlier_run_alone(tiny, run, tmp_path):
    import shutil

    shutil.copytree(run[0], tmp_path / "run")
    before = {path: sha256(path) for path in (tmp_path / "run").rglob("*") if path.is_file() and STORE not in path.name}
    refused(*arguments(tiny, tmp_path / "run", "--keep", "fp16:haed"))
    assert {path: sha256(path) for path in before} == before


def test_a_damaged_store_is_one_sentence(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STORE).write_bytes(np.random.default_rng(0).bytes(9000))
    line = refused(*arguments(tiny, tmp_path / "run"))
    assert f"The store '{tmp_path / 'run' / STORE}' is damaged" in line
    assert "Delete it" in line


def test_an_interrupted_run_says_that_nothing_is_lost(tiny, tmp_path):
    (tmp_path / "stop.py").write_text("def quality(predict):\n    raise KeyboardInterrupt\n")
    result = fewbits("amp", tiny.model, "--data", tiny.calib, "--metric", f"{tmp_path / 'stop.py'}:quality",
                     "--max-drop", 1, "--ranking", "brute-force", "-o", tmp_path / "r")  # fmt: skip
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; nothing is half-written, and what was finished is kept.\n"
