import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fewbits.errors import DataError, FewbitsError, SpecError
from fewbits.runtime.parallel import Workers


@dataclass(frozen=True)
class Base:
    """A recipe: each job adds to its number; every time it is made ready a line is left in the folder."""

    number: int
    folder: Path

    def open(self, threads):
        with (self.folder / "opened").open("a") as file:
            file.write(f"{os.getpid()} {threads}\n")
        return self


def add(base, job):
    return base.number + job


def add_but_die_once(base, job):
    if job == 3 and not (base.folder / "died").exists():
        (base.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return base.number + job


def always_die(base, job):
    if job == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuse(base, job):
    if job >= 2:
        time.sleep(0.2 if job == 2 else 0)  # a later job is the first to fail
        raise DataError(f"sample {job} is not good")
    return job


def stumble(base, job):
    return {}[job]


def mapped(workers, task, jobs, folder):
    base = Base(10, folder)
    with workers.team(lambda: base, lambda: base) as team:
        return list(team.map(task, jobs))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_with_the_number_of_their_job(count, tmp_path):
    found = mapped(Workers(count), add, range(20), tmp_path)
    assert sorted(found) == [(i, 10 + i) for i in range(20)]


def test_what_all_jobs_need_is_made_ready_once_in_each_worker(tmp_path):
    base = Base(10, tmp_path)
    with Workers(2).team(lambda: base, lambda: base) as team:
        for _ in range(2):
            list(team.map(add, range(10)))
    lines = (tmp_path / "opened").read_text().splitlines()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert len({line.split()[0] for line in lines}) == len(lines) <= 2
    assert {line.split()[1] for line in lines} == {str(threads)}


def test_one_worker_is_this_process_and_needs_no_joblib():
    code = """
import os, sys
from fewbits.runtime.parallel import Workers
with Workers().team(lambda: os.getpid(), lambda: 1 / 0) as team:
    assert list(team.map(lambda here, job: here == os.getpid(), [0])) == [(0, True)]
print("joblib" in sys.modules, "cloudpickle" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == [
        "False", "False",
    ]  # fmt: skip


def test_a_lost_worker_costs_a_retry(tmp_path):
    assert sorted(mapped(Workers(2), add_but_die_once, range(12), tmp_path)) == [(i, 10 + i) for i in range(12)]
    assert (tmp_path / "died").exists()


def test_workers_that_are_lost_again_and_again_end_the_run(tmp_path):
    with pytest.raises(FewbitsError, match="Workers were lost 3 times in a row without finishing one job"):
        mapped(Workers(2), always_die, range(5), tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_the_error_of_the_first_job_that_fails_arrives_as_itself(count, tmp_path):
    with pytest.raises(DataError, match="sample 2 is not good"):
        mapped(Workers(count), refuse, range(30), tmp_path)


def test_a_bug_in_a_worker_says_where(tmp_path):
    with pytest.raises(KeyError) as raised:
        mapped(Workers(2), stumble, range(3), tmp_path)
    assert "in stumble" in "".join(raised.value.__notes__)


def test_a_job_that_came_while_workers_are_ended_troubles_nobody(tmp_path, monkeypatch):
    from joblib.externals.loky.process_executor import _ExecutorManagerThread as Manager

    taken_in, said = Manager.process_result_item, []
    monkeypatch.setattr(threading, "excepthook", said.append)

    def slowly(self, item):  # its callback queues the next job; the result arrives here meanwhile
        taken_in(self, item)
        time.sleep(0.1)

    monkeypatch.setattr(Manager, "process_result_item", slowly)
    base = Base(10, tmp_path)
    with Workers(2).team(lambda: base, lambda: base) as team:
        for _ in range(3):
            next(team.map(add, range(1000)))
    assert not said


def test_jobs_that_cannot_be_read_fail_as_here(tmp_path):
    def jobs():
        yield from range(5)
        raise DataError("the file ends here")

    with pytest.raises(DataError, match="the file ends here"):
        mapped(Workers(2), add, jobs(), tmp_path)


def test_what_cannot_be_sent_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"A job cannot be sent to workers .*compute in one process"):
        mapped(Workers(2), add, [(i for i in range(3))], tmp_path)


def test_a_team_that_is_left_early_works_again(tmp_path):
    base = Base(10, tmp_path)
    with Workers(2).team(lambda: base, lambda: base) as team:
        for _ in team.map(add, range(50)):
            break
        assert len(list(team.map(add, range(5)))) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--workers 0 is impossible: write at least 1"),
        ({"count": 2, "dask": "tcp://x:1"}, "--workers and --dask say different things"),
        ({"dask": "tcp://x:1", "ray": "auto"}, "--dask and --ray say different things"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(SpecError, match=message):
        Workers(**options)


LONG = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background ignores it
from fewbits.runtime.parallel import Workers
class Nothing:
    def open(self, threads): return None
def sleep(here, job):
    import os
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
with Workers(2).team(Nothing, Nothing) as team:
    print("begun", flush=True)
    list(team.map(sleep, range(9)))
"""


def test_ctrl_c_ends_all_workers_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(3)]
    assert lines[0] == "begun"
    os.killpg(process.pid, signal.SIGINT)
    begin = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - begin < 10
    assert said.count("KeyboardInterrupt") == 1, said
    for pid in map(int, lines[1:]):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
