"""Encodings files with something wrong in them: read, or refused in a sentence, never anything else."""

import copy
import json

import numpy as np
import pytest

from fewbits.artifact.encodings_json import encodings_document
from fewbits.artifact.encodings_read import read_given
from fewbits.artifact.encodings_versions import VERSIONS, as_version
from fewbits.errors import FewbitsError
from fewbits.quantization.adopt import adopt
from fewbits.quantization.profile import Profile
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantized import quantize_calibrated

VALUES = (None, -1, 0, 99, 1.5, float("nan"), "", "INT", [], [1], {}, {"a": 1}, True)
ROUNDS = 150


@pytest.fixture(scope="module")
def calibration(tiny):
    return calibrate(tiny.model, data=tiny.calib)


def places(value, path=()):
    """Return the path of every value inside a JSON document."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def damaged(document, rng):
    """Return a copy with one to three values replaced or removed."""
    made = copy.deepcopy(document)
    for _ in range(rng.integers(1, 4)):
        *above, last = (found := places(made))[rng.integers(len(found))]
        holder = made
        for key in above:
            holder = holder[key]
        if isinstance(holder, dict) and rng.random() < 0.3:
            del holder[last]
        else:
            holder[last] = VALUES[rng.integers(len(VALUES))]
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(calibration, tmp_path, version):
    made = quantize_calibrated(calibration, Profile.parse("w8a8", {"conv2": "w8a16", "head": "fp16"}), ranges="minmax")
    graph = calibration.model.graph
    document = as_version(encodings_document(graph, made.plan, made.encodings, producer="0"), version)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(ROUNDS):
        (tmp_path / "e.json").write_text(json.dumps(damaged(document, rng)))
        try:
            adopt(calibration.model, read_given(tmp_path / "e.json", graph), "t")
        except FewbitsError as error:
            refused += "\n" not in str(error)
    assert 0.2 < refused / ROUNDS < 1  # damage is seen, and not everything is damage
