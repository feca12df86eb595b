import json
import os
import signal

import numpy as np
import onnx.parser
import pytest
from workers_cases import CALIB, EVAL, MODEL, calibrated, differences, figures

from fewbits.analysis.sensitivity import PARTS
from fewbits.artifact import names
from fewbits.errors import DataError, MetricError, SpecError
from fewbits.runtime.data.images import ImageSource
from fewbits.runtime.parallel import Workers
from fewbits.runtime.store import Store
from fewbits.workflow import brute_force as module
from fewbits.workflow import workers_sent
from fewbits.workflow.calibrate import calibrate
from fewbits.workflow.quantize import quantize
from fewbits.workflow.scoring import check_metric, open_scoring
from fewbits.workflow.workers_scoring import file_scorers, score_files
from fewbits.workflow.workers_sent import KeptData, sent_data

TWO = Workers(2)


@pytest.fixture(scope="module")
def calibration():
    return calibrated()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Two files to score: digits in w8a8 and w4a8."""
    folder = tmp_path_factory.mktemp("artifacts")
    for precision in ("w8a8", "w4a8"):
        quantize(MODEL, data=CALIB, precision=precision, samples=16, output=folder / precision, eval_samples=8)
    return [folder / precision / names.ARTIFACT for precision in ("w8a8", "w4a8")]


def test_brute_force_gives_the_same_figures(calibration):
    alone = figures(calibration, parts=PARTS)
    assert any(figure.error > 0 for _, figure in alone)
    assert figures(calibration, TWO, parts=PARTS) == figures(calibration, Workers(3), parts=PARTS) == alone


def test_brute_force_alone_float_and_by_score_give_the_same_figures(calibration):
    assert figures(calibration, TWO, mode="alone-float", count=2) == figures(calibration, mode="alone-float", count=2)
    scoring = open_scoring(calibration.subject, samples=64, eval_data=EVAL, eval_samples=32)
    by_score = {"score": scoring, "count": 3}
    assert figures(calibration, TWO, **by_score) == figures(calibration, **by_score)


def test_samples_that_are_not_kept_are_read_by_the_workers(calibration, monkeypatch):
    alone = figures(calibration, count=2)
    monkeypatch.setattr("fewbits.workflow.judge.MOST_KEPT_BYTES", 0)
    assert figures(calibration, TWO, count=2) == alone


def test_a_large_model_goes_through_a_file(calibration, monkeypatch):
    alone = figures(calibration, count=2)
    monkeypatch.setattr(workers_sent, "EXTERNAL_BYTES", 0)
    assert figures(calibration, TWO, count=2) == alone


def test_figures_are_in_the_store_as_they_come(calibration, tmp_path, monkeypatch):
    alone = figures(calibration)

    class Watcher:
        told = 0

        def __call__(self, stage, samples):
            return self

        def advance(self, samples):
            Watcher.told += samples
            if Watcher.told >= 3:
                raise KeyboardInterrupt

    with Store(tmp_path / "s.sqlite") as store, pytest.raises(KeyboardInterrupt):
        figures(calibration, TWO, store=store, progress=Watcher())
    runs, run = [], module._run
    monkeypatch.setattr(module, "_run", lambda *given: runs.append(given) or run(*given))
    with Store(tmp_path / "s.sqlite") as store:
        assert figures(calibration, store=store) == alone
    assert 0 < len(runs) <= len(alone) - 3


@pytest.mark.parametrize("workers", [TWO, Workers(3)])
def test_calibration_sees_the_same_to_the_last_bit(workers):
    alone = calibrated(samples=100, batch_size=7)
    assert differences(alone.statistics, calibrated(workers, samples=100, batch_size=7).statistics) == []


def test_calibration_takes_any_data(tmp_path):
    (tmp_path / "own.py").write_text(
        f"import numpy as np\ndef samples():\n    yield from np.load({str(CALIB)!r})['image'][:40]\n"
    )
    data = f"{tmp_path / 'own.py'}:samples"
    alone = calibrated(data=data)
    assert differences(alone.statistics, calibrated(TWO, data=data).statistics) == []


def test_masks_are_seen_alike():
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[N, 6] x) => (float[N, 6] y) { m = Where (b, x, inf) s = Softmax (m) y = Mul (s, x) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array([1, 1, 1, 1, 0, 1], bool), "b"),
            onnx.numpy_helper.from_array(np.array(-np.inf, np.float32), "inf"),
        ]
    )
    data = {"x": np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)}
    one, two = (calibrate(model, data=data, batch_size=3, workers=workers) for workers in (None, TWO))
    assert differences(one.statistics, two.statistics) == []


def test_the_first_bad_sample_is_named():
    data = {"image": np.load(CALIB)["image"][:64]}
    data["image"][40] = 3e38
    said = []
    for workers in (None, TWO):
        with pytest.raises(DataError, match="becomes NaN or Inf within samples 40 to 49") as raised:
            calibrated(workers, data=data, batch_size=10)
        said.append(str(raised.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("metric", ["top1", "sqnr"])
def test_files_are_scored_alike(calibration, artifacts, metric):
    scoring = open_scoring(
        calibration.subject, samples=64, eval_data=EVAL, eval_samples=64, metric=check_metric(metric, None)
    )
    alone, two = (dict(score_files(scoring, calibration.subject, artifacts, who)) for who in (None, TWO))
    assert list(alone) == [0, 1]
    for index, found in alone.items():
        assert (found.value, found.samples, found.metric) == (two[index].value, two[index].samples, two[index].metric)
        np.testing.assert_array_equal(found.per_sample, two[index].per_sample)


def test_the_users_own_metric_reaches_workers_by_its_file(calibration, artifacts, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        f"import numpy as np\ndata = np.load({str(EVAL)!r})\n"
        "def spread(predict):\n    return float(next(iter(predict({'image': data['image'][:4]}).values())).std())\n"
    )
    monkeypatch.chdir(tmp_path)
    scoring = open_scoring(calibration.subject, samples=8, metric=check_metric("own.py:spread", None))
    with file_scorers(scoring, calibration.subject, TWO) as score:
        first, again = dict(score(artifacts)), dict(score(artifacts[::-1]))
    alone = dict(score_files(scoring, calibration.subject, artifacts))
    assert [first[i].value for i in (0, 1)] == [alone[i].value for i in (0, 1)] == [again[i].value for i in (1, 0)]


def test_a_metric_that_cannot_be_sent_is_named(calibration, artifacts):
    held = (i for i in range(3))
    scoring = open_scoring(calibration.subject, samples=8, metric=check_metric(lambda predict: next(held), True))
    with pytest.raises(SpecError, match=r"cannot be sent to workers .* as file\.py:function"):
        list(score_files(scoring, calibration.subject, artifacts, TWO))


def test_what_a_metric_says_in_a_worker_is_said_here(calibration, artifacts):
    scoring = open_scoring(calibration.subject, samples=8, metric=check_metric(lambda predict: "seven", True))
    with pytest.raises(MetricError, match="returned 'seven': it must return a number"):
        list(score_files(scoring, calibration.subject, artifacts, TWO))


def test_a_worker_that_dies_costs_a_retry(calibration, artifacts, tmp_path):
    died = tmp_path / "died"

    def deadly(predict):
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    scoring = open_scoring(calibration.subject, samples=8, metric=check_metric(deadly, True))
    found = dict(score_files(scoring, calibration.subject, artifacts, TWO))
    assert [found[i].value for i in (0, 1)] == [1.0, 1.0]
    assert died.exists()


def test_files_are_sent_by_path_and_all_else_by_value(tmp_path, calibration, monkeypatch):
    monkeypatch.chdir(CALIB.parent)
    inputs = calibration.subject.runner.inputs
    from PIL import Image

    from fewbits.runtime.data import InputInfo, open_data

    by_path = sent_data(open_data(CALIB.name, inputs=inputs), 4, 8)
    assert all(path.is_absolute() for path in by_path._source.paths)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = open_data(tmp_path, inputs=[InputInfo("x", np.dtype("float32"), (1, 3, 8, 8))])
    assert isinstance(sent_data(images, 1, 1)._source, ImageSource)
    kept = sent_data(open_data({"image": np.load(CALIB)["image"]}, inputs=inputs), 4, 10)
    assert isinstance(kept, KeptData)
    assert [batch.size for batch in kept.batches(4, 10)] == [4, 4, 2]


def test_the_command_line_says_who_computes(tmp_path, monkeypatch, capsys):
    from fewbits.cli import main

    records = []
    for extra in ([], ["--workers", "2"]):
        folder = tmp_path / f"out{len(records)}"
        command = ["fewbits", "analyze", str(MODEL), "--data", str(CALIB), "--samples", "32", "--analysis-samples", "8",
                   "--precisions", "w8a8", "--method", "brute-force", "--quiet", "-o", str(folder), *extra]  # fmt: skip
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
        records.append(json.loads((folder / names.RECORD).read_text()))
    alone, two = records
    assert alone["groups"] == two["groups"]
    assert "workers" not in alone["options"]
    assert two["options"]["workers"]["count"] == 2
    monkeypatch.setattr("sys.argv", [*command, "--dask", "tcp://x:1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--workers and --dask say different things" in " ".join(capsys.readouterr().err.split())
