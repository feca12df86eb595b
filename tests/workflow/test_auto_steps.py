"""What the steps hand on to one another: better weights, the model that wide precisions start from, training."""

from dataclasses import replace

import onnx
import pytest
from amp_cases import THREADS
from auto_cases import assert_whole, auto_of, evaluations_of, plain, quickly, steps_of
from onnx import numpy_helper
from pasted import assert_parses

import fewbits
from fewbits.artifact import names
from fewbits.graph.load import load_model
from fewbits.reporting.read import read_any
from fewbits.reporting.record import read_record
from fewbits.training.schedule import Training
from fewbits.workflow import auto_run, auto_steps
from fewbits.workflow.content_keys import model_key
from fewbits.workflow.verify import verify

pytest.importorskip("torch")


def scripted(patch, *steps):
    """Let a run make these steps, whatever is known, and stop."""
    left = [*steps, "stop"]
    patch.setattr(auto_run, "decide", lambda facts: (left[min(len(facts.done), len(steps))], "it is written"))


def scripted_run(tiny, folder, *steps, changes=None, **options):
    with quickly(has_torch=True) as patch:
        scripted(patch, *steps)
        patch.setattr(auto_steps, "QUICK_METHODS", ("seq-mse", "gptq"))
        for name, value in (changes or {}).items():
            patch.setattr(auto_steps, name, value)
        return auto_of(tiny, folder, **options)


@pytest.fixture(scope="module")
def spiky(tiny, tmp_path_factory):
    """The tiny network with one large weight per channel: w8a8 37.6 dB, w8a16 48.6; with better weights 38.7, 51.4."""
    model = onnx.load(tiny.model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[:, 0, 0, 0] *= 20
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    path = tmp_path_factory.mktemp("spiky") / "spiky.onnx"
    onnx.save(model, path)
    return replace(tiny, model=path)


def by_name(record):
    return {made.name: made for made in record.contenders}


@pytest.fixture(scope="module")
def improved(spiky, tmp_path_factory):
    """A run with better weights, in which w8a16 and what lies below it fail."""
    folder = tmp_path_factory.mktemp("steps") / "run"
    return scripted_run(spiky, folder, "baseline", "improve", "again", "litemp", min_sqnr=75.0)


def test_better_weights_are_what_later_steps_begin_with(improved):
    made = by_name(improved.record)
    assert made["improve-w8a8"].precision == "w8a8 by seq-mse"
    assert made["improve-w8a8"].score > made["w8a8"].score
    assert made["again-w8a8"].score == made["improve-w8a8"].score
    assert made["again-w8a16"].score > made["w8a16"].score
    assert made["improve-w8a8"].bit_operations == made["w8a8"].bit_operations
    # w8a8 with better weights was known
    assert [fork.evaluations for fork in improved.record.forks][2] == 1


def test_wide_weights_are_taken_from_the_model_that_was_given(improved):
    """Better weights lie on grids of 8 bits: with them no wider precision would be better than w8a16."""
    made = by_name(improved.record)
    record = read_any(improved.output / "litemp" / names.RECORD)
    assert (record.base, record.high) == ("w8a8", "w16a16")
    assert record.high_row.score == made["w16a16"].score > made["again-w8a16"].score + 10
    given = model_key(load_model(improved.output / "baseline" / "w8a8" / names.FLOAT))
    assert model_key(load_model(improved.output / "litemp" / "w8a8" / names.FLOAT)) == given
    assert model_key(load_model(improved.output / "improve" / names.FLOAT)) != given


def test_what_step_one_no_longer_tells_does_not_replace_its_verdict(improved):
    record = improved.record
    assert record.forks[2].found.startswith("not told by these precisions")
    assert record.verdict["finding"] == "weight- and activation-sensitive"


def test_the_record_describes_the_model_that_was_chosen(improved):
    """The chosen one has the weights that were given, though later models have better ones."""
    assert improved.record.chosen == "w16a16"
    assert "improved" not in improved.record.model
    assert not (improved.output / names.REFERENCE).exists()
    assert read_record(improved.output / names.RECORD).model == improved.record.model
    assert_whole(improved.output)


@pytest.mark.slow
def test_a_second_run_with_better_weights_comes_to_the_same(improved, spiky):
    before = plain(improved.output)
    again = scripted_run(spiky, improved.output, "baseline", "improve", "again", "litemp", min_sqnr=75.0)
    assert plain(improved.output) == before
    assert evaluations_of(again.record) == 0


def test_chosen_better_weights_can_be_taken_up_by_other_verbs(spiky, tmp_path):
    record = scripted_run(spiky, tmp_path / "run", "baseline", "improve", min_sqnr=38.0).record
    assert record.chosen == "improve-w8a8"
    assert record.model["improved"]
    assert_whole(tmp_path / "run")
    assert (tmp_path / "run" / names.REFERENCE).is_file()
    made = read_record(tmp_path / "run" / names.RECORD)
    assert made.pinned
    assert made.improvement["methods"][0]["name"] == "seq-mse"
    assert verify(tmp_path / "run").passed
    again = fewbits.quantize(tmp_path / "run", data=spiky.calib, metric="sqnr", ranges="minmax", **THREADS)
    assert again.score.value == pytest.approx(by_name(record)["improve-w8a8"].score)


def test_narrow_weights_come_from_the_model_that_was_given(tiny, tmp_path):
    record = scripted_run(tiny, tmp_path / "run", "baseline", "narrow", goal="smallest", min_sqnr=20.0).record
    narrow = by_name(record)["narrow-w4a8"]
    assert record.chosen == narrow.name
    assert narrow.weight_bytes < min(made.weight_bytes for made in record.contenders if made is not narrow)
    assert "narrow-w4a8, that is w4a8 by" in record.summary[1]


def training(**limits):
    return Training(steps=20, rate=0.0005, batch_size=8, **limits)


def test_training_starts_from_better_weights_and_takes_the_time_that_is_left(spiky, tmp_path):
    limits = []

    def told(**given):
        limits.append(given)
        return training(**given)

    record = scripted_run(
        spiky, tmp_path / "run", "baseline", "improve", "qat", min_sqnr=75.0, time="90s", changes={"Training": told}
    ).record
    assert len(limits) == 1
    assert 0.1 <= limits[0]["minutes"] < 1.5
    fork = record.forks[2]
    assert (fork.step, fork.found[:4]) == ("qat", "qat:")
    trained = read_any(tmp_path / "run" / "qat" / names.RECORD)
    assert [row["name"] for row in trained.improvement["methods"]] == ["qat"]
    assert steps_of(record) == ["baseline", "improve", "qat", "stop"]
    assert not any(command.startswith("fewbits qat") for _, command in record.next_steps)


@pytest.mark.slow
def test_training_that_is_asked_for_starts_with_gptq(tiny, tmp_path):
    with quickly(has_torch=True) as patch:
        patch.setattr(auto_steps, "Training", training)
        record = auto_of(tiny, tmp_path / "run", qat=True, min_sqnr=30.0).record
    assert steps_of(record) == ["baseline", "qat", "stop"]
    trained = read_any(tmp_path / "run" / "qat" / names.RECORD)
    assert [row["name"] for row in trained.improvement["methods"]] == ["gptq", "qat"]
    assert "qat-w8a8" in by_name(record)
    assert_parses(record.command)
    assert record.command.endswith(" --qat")


def test_a_step_that_the_target_has_no_precisions_for_says_so(tiny, tmp_path):
    target = tmp_path / "narrow.toml"
    target.write_text('extends = "qnn-htp-v73"\ndescription = "8 bits"\nfp16 = false\nactivation_types = ["uint8"]\n')
    record = scripted_run(
        tiny, tmp_path / "run", "baseline", "amp", "narrow", target=target, min_sqnr=250.0, goal="smallest"
    ).record
    assert [fork.folder for fork in record.forks] == ["baseline", None, None, None]
    assert "takes no more than one of w8a8, w8a16" in record.forks[1].found
    assert "cannot run Conv 'conv1' in w4a16: its activations are uint8" in record.forks[2].found
