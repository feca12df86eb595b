import json

import pytest
from sample_records import baseline_record, litemp_record, write_records
from typer.testing import CliRunner

from fewbits.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_report_prints_where_the_page_lies(tmp_path):
    write_records(tmp_path, baseline_record())
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "report.html") in result.stdout
    assert (tmp_path / "report.html").is_file()


def test_report_in_json_and_to_another_file(tmp_path):
    write_records(tmp_path, baseline_record())
    result = run(tmp_path, "-o", tmp_path / "page.html", "--json")
    said = json.loads(result.stdout)
    assert said == {"output": str(tmp_path / "page.html"), "bytes": (tmp_path / "page.html").stat().st_size}
    assert run(tmp_path, "--quiet").stdout == ""


def test_report_of_nothing_is_one_sentence(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: There is no record.json in")


def test_report_compares_two_runs(tmp_path, monkeypatch):
    write_records(tmp_path, baseline_record(), litemp_record())
    monkeypatch.chdir(tmp_path)
    result = run("--compare", "baseline", "litemp")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("comparison: compare.html (")
    assert "<h1>Two runs, side by side</h1>" in (tmp_path / "compare.html").read_text()
    said = json.loads(run("--compare", "baseline", "litemp", "-o", "two.html", "--json").stdout)
    assert said == {"output": "two.html", "bytes": (tmp_path / "two.html").stat().st_size}


@pytest.mark.parametrize("arguments", [(), ("run", "--compare", "a", "b"), ("--compare", "a", "a")])
def test_what_report_cannot_do_is_one_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(("error: Name either a run, fewbits report RUN, or two", "error: Both runs are 'a'"))
