"""Workers of clusters on this machine: Dask's LocalCluster and Ray; skipped where they are not installed."""

import os
import signal
import sys
import time

import pytest
from workers_cases import CALIB, EVAL, MODEL, calibrated, differences, figures

from fewbits.artifact import names
from fewbits.errors import FewbitsError, MissingExtraError, SpecError
from fewbits.runtime import parallel_pools
from fewbits.runtime.parallel import Workers
from fewbits.workflow.quantize import quantize
from fewbits.workflow.scoring import check_metric, open_scoring
from fewbits.workflow.workers_scoring import score_files

# What the libraries leave to the garbage collector, or warn of in their own threads, is theirs.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def calibration():
    return calibrated()


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs pip install 'fewbits[dask]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as found:
        yield found


def unlike(calibration, workers, folder):
    """Return what of brute force, calibration and scores is not as in one process."""
    found = differences(calibrated(workers).statistics, calibration.statistics)
    if figures(calibration, workers) != figures(calibration):
        found.append("brute force")
    for precision in ("w8a8", "w4a8"):
        quantize(MODEL, data=CALIB, precision=precision, samples=16, output=folder / precision, eval_samples=8)
    files = [folder / precision / names.ARTIFACT for precision in ("w8a8", "w4a8")]
    scoring = open_scoring(
        calibration.subject, samples=64, eval_data=EVAL, eval_samples=64, metric=check_metric("sqnr", None)
    )
    alone, there = (dict(score_files(scoring, calibration.subject, files, who)) for who in (None, workers))
    if {i: one.value for i, one in alone.items()} != {i: one.value for i, one in there.items()}:
        found.append("scores")
    return found


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same(calibration, cluster, tmp_path):
    assert unlike(calibration, Workers(dask=cluster.scheduler_address), tmp_path) == []


class Killer:
    """A watcher that kills a process after three figures."""

    def __init__(self, victim):
        self.victim, self.told, self.is_done = victim, 0, False

    def __call__(self, stage, samples):
        return self

    def advance(self, samples):
        self.told += samples
        if self.told >= 3 and not self.is_done:
            self.is_done = True
            os.kill(self.victim(), signal.SIGKILL)


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_nothing_but_time(calibration, cluster):
    first = next(iter(cluster.workers.values())).pid
    killer = Killer(lambda: first)
    found = figures(calibration, Workers(dask=cluster.scheduler_address), count=12, progress=killer)
    assert killer.is_done
    assert first not in {worker.pid for worker in cluster.workers.values()}
    assert found == figures(calibration, count=12)


@pytest.mark.slow
def test_a_job_that_kills_its_dask_workers_ends_the_run(calibration, cluster, tmp_path):
    scoring = open_scoring(
        calibration.subject, samples=8, metric=check_metric(lambda predict: os.kill(os.getpid(), signal.SIGKILL), True)
    )
    with pytest.raises(FewbitsError, match="Workers were lost 3 times in a row"):
        list(score_files(scoring, calibration.subject, [MODEL], Workers(dask=cluster.scheduler_address)))


@pytest.fixture
def one_ray():
    """A Ray cluster of two workers on this machine, which the tests join as a user's process would."""
    ray = pytest.importorskip("ray", reason="needs pip install 'fewbits[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same(calibration, one_ray, tmp_path):
    assert unlike(calibration, Workers(ray="auto"), tmp_path) == []
    assert one_ray.is_initialized()  # what was there before is left there


@pytest.mark.slow
def test_ray_starts_on_this_machine_where_it_is_asked_to(calibration):
    ray = pytest.importorskip("ray", reason="needs pip install 'fewbits[ray]'")
    assert figures(calibration, Workers(ray="local"), count=3) == figures(calibration, count=3)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_ray_worker_that_is_killed_costs_a_retry(calibration, one_ray):
    psutil = pytest.importorskip("psutil")

    def victim():
        ours = psutil.Process().children(recursive=True)
        return next(process.pid for process in ours if "ray::PoolActor" in " ".join(process.cmdline()))

    killer = Killer(victim)
    assert figures(calibration, Workers(ray="auto"), count=12, progress=killer) == figures(calibration, count=12)
    assert killer.is_done


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["dask", "ray"])
def test_where_nobody_listens_is_said_soon(extra, monkeypatch):
    pytest.importorskip({"dask": "distributed"}.get(extra, extra), reason=f"needs pip install 'fewbits[{extra}]'")
    monkeypatch.setattr(parallel_pools, "_TIMEOUT_S", 2.0)
    address = {"dask": "tcp://127.0.0.1:1", "ray": "127.0.0.1:1"}[extra]
    begin = time.monotonic()
    with pytest.raises(SpecError, match=r"No (Dask scheduler|Ray cluster) answers at '.*127.0.0.1:1'"):
        calibrated(Workers(**{extra: address}))
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(("extra", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_extra_is_named(extra, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'fewbits\[{extra}\]'"):
        calibrated(Workers(**{extra: "tcp://127.0.0.1:1"}))
