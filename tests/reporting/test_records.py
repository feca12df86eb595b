import json
import math
from dataclasses import replace

import pytest
from sample_auto import auto_record
from sample_records import amp_record, analysis_record, baseline_record, litemp_record

from fewbits.errors import SpecError
from fewbits.reporting.analysis_record import Figure
from fewbits.reporting.baseline_record import Row
from fewbits.reporting.decode import decode
from fewbits.reporting.read import read_any
from fewbits.reporting.record import RunRecord, read_record


@pytest.mark.parametrize(
    "record",
    [baseline_record(), litemp_record(), amp_record(), analysis_record(7, 4), auto_record()],
    ids=lambda r: r.verb,
)
def test_read_any_returns_what_was_written(record, tmp_path):
    (tmp_path / "record.json").write_text(record.to_json())
    assert read_any(tmp_path / "record.json") == record


def test_read_any_reads_the_record_of_a_quantized_model(quantized_folder):
    record = read_any(quantized_folder / "record.json")
    assert isinstance(record, RunRecord)
    assert record.verb == "quantize"
    assert json.loads(record.to_json()) == json.loads((quantized_folder / "record.json").read_text())


def test_what_improvers_did_comes_back_and_old_records_have_none(quantized_folder, tmp_path):
    document = json.loads((quantized_folder / "record.json").read_text())
    assert document.pop("improvement") == {}
    done = {"methods": [{"name": "adaround", "layers": 3}]}
    for found, wanted in ((document, {}), (document | {"improvement": done}, done)):
        (tmp_path / "record.json").write_text(json.dumps(found))
        assert read_record(tmp_path / "record.json").improvement == wanted
        assert read_any(tmp_path / "record.json").improvement == wanted


def test_numbers_that_json_lacks_come_back_as_unknown(tmp_path):
    group = analysis_record(1).groups[0]
    silent = replace(group, figures={"w8a8": {"all": Figure(0.0, math.inf)}}, measured={"w8a8": math.inf})
    (tmp_path / "record.json").write_text(replace(analysis_record(1), groups=(silent,)).to_json())
    found = read_any(tmp_path / "record.json").groups[0]
    assert found.figures["w8a8"]["all"].sqnr_db is None
    assert found.measured["w8a8"] is None
    (tmp_path / "record.json").write_text(baseline_record(float_row=Row("float", math.inf)).to_json())
    assert math.isnan(read_any(tmp_path / "record.json").float_row.score)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read: it is no JSON text"),
        ("[" * 100_000, "cannot be read: it is no JSON text"),
        ("[]", "names no verb and no schema"),
        ('{"verb": "litemp"}', "names no verb and no schema"),
        ('{"verb": "litemp", "schema": 1}', "created is missing. Run `fewbits litemp` again"),
        ('{"verb": "analyze", "schema": 99}', "newer fewbits: upgrade"),
    ],
)
def test_read_any_refuses_what_is_no_record(text, says, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(SpecError, match=says.replace("(", r"\(")):
        read_any(tmp_path / "record.json")


def test_read_any_names_the_place_that_does_not_fit(tmp_path):
    document = json.loads(analysis_record(2, 2).to_json())
    document["groups"][1]["figures"]["w8a8"]["all"]["error"] = "much"
    (tmp_path / "record.json").write_text(json.dumps(document))
    with pytest.raises(SpecError, match=r"groups\[1\]\.figures\.w8a8\.all\.error is 'much' and must be a number"):
        read_any(tmp_path / "record.json")


def test_read_any_says_where_there_is_nothing(tmp_path):
    with pytest.raises(SpecError, match=r"There is no record\.json in"):
        read_any(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, 1.5), (int, True), (bool, 1), (str, None), (float, "1"), (tuple[int, str], [1]), (tuple[int, ...], 3)],
)
def test_decode_refuses_other_types(kind, value):
    with pytest.raises(ValueError, match="must be"):
        decode(kind, value, "x")
