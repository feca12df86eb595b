import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from fewbits.errors import OutputError
from fewbits.runtime.store import STORE, Store, key_of

WRITER = """
import sys
from fewbits.runtime.store import Store, key_of
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[3])):
        store.put(key_of(sys.argv[2], i), {"writer": sys.argv[2], "i": i})
        print(i, flush=True)
"""


def writer(path, name, count):
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("where", [None, "a/b/store.sqlite"])
def test_what_was_put_comes_back(where, tmp_path):
    with Store(None if where is None else tmp_path / where) as store:
        assert store.get("key") is None
        store.put("key", {"error": float("inf"), "names": ["a", "b"]})
        assert store.get("key") == {"error": float("inf"), "names": ["a", "b"]}
        store.put("key", 0.25)
        assert store.get("key") == 0.25


def test_what_is_remembered_is_made_once():
    made = []

    def make():
        made.append(1)
        return [0.5, "a"]

    with Store() as store:
        assert store.remember("key", make) == [0.5, "a"]
        assert store.remember("key", make) == [0.5, "a"]
    assert made == [1]


def test_results_outlive_the_process_that_made_them(tmp_path):
    with Store(tmp_path / STORE) as store:
        store.put("key", 1)
    assert [path.name for path in tmp_path.iterdir()] == [STORE]
    with Store(tmp_path / STORE) as store:
        assert store.get("key") == 1


def test_two_processes_share_one_file(tmp_path):
    running = [writer(tmp_path / STORE, name, 50) for name in ("left", "right", "third")]
    assert [process.communicate()[0].count("\n") for process in running] == [50, 50, 50]
    with Store(tmp_path / STORE) as store:
        for name in ("left", "right", "third"):
            assert [store.get(key_of(name, i))["i"] for i in range(50)] == list(range(50))


def test_kill_loses_nothing_that_was_put(tmp_path):
    process = writer(tmp_path / STORE, "killed", 100000)
    said = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    said += [int(line) for line in process.communicate()[0].splitlines() if line]
    with Store(tmp_path / STORE) as store:
        assert all(store.get(key_of("killed", i)) == {"writer": "killed", "i": i} for i in said[:-1])
        store.put("after", 1)


def test_a_file_that_is_no_store_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / STORE
    path.write_bytes(b"this is a text, and a long one, but no database at all" * 100)
    with pytest.raises(OutputError, match=r"store\.sqlite' is damaged: file is not a database\. Delete it"):
        Store(path)
    assert path.exists()


def test_a_damaged_store_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / STORE
    with Store(path) as store:
        for i in range(2000):
            store.put(key_of(i), "x" * 100)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(OutputError, match="Delete it"), Store(path) as store:
        [store.get(key_of(i)) for i in range(2000)]


def test_a_store_of_a_newer_version_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / STORE)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="newer fewbits"):
        Store(tmp_path / STORE)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be used"):
        Store(tmp_path)


def test_keys_are_content_hashes():
    array = np.arange(6, dtype=np.float32)
    parts = ("model", 8, 1.5, None, True, b"raw", array, ["a", ("b",)], {"x": 1, "y": array})
    again = ("model", 8, 1.5, None, True, b"raw", array.copy(), ("a", ["b"]), {"y": array.copy(), "x": 1})
    assert key_of(*parts) == key_of(*again)
    assert len(key_of(*parts)) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((1,), ("1",)),
        ((None,), ("None",)),
        (("a",), (b"a",)),
        ((("a", "b"),), ("a", "b")),
        (((), "a"), (("a",),)),
        (({"a": "b"},), (("a", "b"),)),
        ((np.zeros(4, np.float32),), (np.zeros(4, np.int32),)),
        ((np.zeros((2, 2)),), (np.zeros(4),)),
        ((np.array([1.0, 2.0]),), (np.array([1.0, 3.0]),)),
        ((np.array(["a", "bc"], object),), (np.array(["ab", "c"], object),)),
    ],
)
def test_different_content_has_different_keys(one, other):
    assert key_of(*one) != key_of(*other)


def test_a_part_without_content_is_refused():
    with pytest.raises(TypeError, match="object has no content hash"):
        key_of(object())


def test_a_waiting_writer_gets_its_turn(tmp_path):
    with Store(tmp_path / STORE) as store:
        store._database.execute("BEGIN IMMEDIATE")
        process = writer(tmp_path / STORE, "patient", 1)
        time.sleep(1.0)
        store._database.execute("COMMIT")
        assert process.communicate()[0] == "0\n"
        assert store.get(key_of("patient", 0))["i"] == 0
