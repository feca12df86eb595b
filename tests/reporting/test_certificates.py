"""Parity certificates on the page: figures, what differs, limits; and names that would be markup."""

import json
from dataclasses import asdict

import pytest
from sample_records import baseline_record, write_records

from fewbits.artifact import names
from fewbits.deployment.certificate import Certificate, OutputParity
from fewbits.deployment.place_certificate import (
    LocalDifference,
    Localized,
    OutputAtPlace,
    PlaceCertificate,
    ScoreAtPlace,
    limits_of,
    not_proven_of,
)
from fewbits.errors import SpecError
from fewbits.reporting.html.certificates import find_cards
from fewbits.reporting.record import plain
from fewbits.workflow.report import report

NASTY = "<script>alert(1)</script>"


def place_certificate(**changes):
    found = {
        "place": "Qualcomm's emulator of the HTP",
        "passed": False,
        "samples": 4,
        "reference": "onnxruntime",
        "outputs": {NASTY: OutputAtPlace(31.5, 43.7, {"0": 3, "17 or more": 9}, ((2, 0.75),), False)},
        "score": ScoreAtPlace("top1", "%", True, 40, 95.0, 94.0, 92.5, 1.5, (0.0, 3.0)),
        "wrong_types": (("n", "Conv", "uint8", "float32"),),
        "localized": Localized(
            NASTY, 31.6, None, {"Conv": 62.5, "Gemm": None},
            (LocalDifference("t", "matmul", "MatMul", 35.2, 469, 0.9, 27.0),),
        ),
        "conditions": {"soc": {"name": "sm8650"}, "versions": {"fewbits": "0"}, "machine": {}, "damaged": []},
        "limits": limits_of(4),
        "not_proven": not_proven_of(is_htp=True, has_score=True),
    }  # fmt: skip
    return PlaceCertificate(**{**found, **changes})


def write(folder, name, certificate):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(plain(asdict(certificate))))


def test_the_page_shows_what_was_found_where(tmp_path):
    write_records(tmp_path, baseline_record())
    write(tmp_path / "w8a8", names.PLACE_CERTIFICATES["qnn-htp"], place_certificate())
    here = Certificate(True, 4, {"logits": OutputParity(40, 0, None, 25.0, 12.5)}, {"machine": {"cores": 2}})
    write(tmp_path, names.CERTIFICATE, here)
    (own, place) = find_cards(tmp_path)
    assert (own.title, own.is_passed) == ("ONNX Runtime, a fresh process", True)
    assert own.rows[0][1:3] == ("0 of 40", "equal")
    assert place.title == "Qualcomm's emulator of the HTP, sm8650 (w8a8)"
    assert not place.is_passed
    assert place.rows[0][1:] == ("31.50\N{NO-BREAK SPACE}dB", "43.70\N{NO-BREAK SPACE}dB", "0: 3, 17 or more: 9")
    assert "lost 1.50" in place.sentences[0]
    assert place.sentences[1] == "1 operators were compiled in another type than the file says."
    assert place.found[0][2][0][:2] == ("matmul", "MatMul")
    assert [op for op, _ in place.found[1][2]] == ["Gemm", "Conv"]
    text = report(tmp_path).read_text(encoding="utf-8")
    assert 'href="#parity"' in text
    assert "not passed" in text
    assert NASTY not in text
    assert "Qualcomm&#39;s emulator of the HTP ran here, no device did" in text


def test_without_certificates_there_is_no_section(tmp_path):
    write_records(tmp_path, baseline_record())
    assert 'id="parity"' not in report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"place": "x"}', json.dumps({"passed": 1})])
def test_a_damaged_certificate_is_one_sentence(tmp_path, content):
    write_records(tmp_path, baseline_record())
    (tmp_path / names.PLACE_CERTIFICATES["openvino"]).write_text(content)
    with pytest.raises(SpecError, match=r"certificate .*openvino.json' cannot be read: .* Run `fewbits verify` again"):
        report(tmp_path)
