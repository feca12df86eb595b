"""`adaround` and `improve` on the command line."""

import json
import subprocess

import pytest
from command_line import PROGRAM, ok, refused, words

from fewbits.artifact import names
from fewbits.cli.improve import parse_effort
from fewbits.errors import SpecError
from fewbits.runtime.memory import parse_size
from fewbits.runtime.store import STORE

pytest.importorskip("torch")

from fewbits.improvement.torch_cache import open_cache


def arguments(verb, tiny, output, *more):
    return (verb, tiny.model, "--data", tiny.calib, "--eval-data", tiny.evaluation, "-o", output, "--threads", 1, *more)


def test_adaround_prints_scores_methods_and_what_is_next(tiny, tmp_path):
    out = tmp_path / "out"
    text = ok(*arguments("adaround", tiny, out, "--method", "cle,gptq", "--score-each", "--max-drop", "100")).stdout
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert "top1 on 40 samples; goal: drop of at most 100 %" in text
    assert ("w4a8 before" in text, "w4a8 after" in text, "within the goal" in text) == (True, True, True)
    assert lines["none"][-2:] == [lines["none"][-2], "%"]
    assert lines["gptq"][3] == "3"
    assert lines["gptq"][-1] == "yes"
    assert lines["gptq"][4].startswith("-")
    assert "cle left conv1" in text
    assert "its weight" not in text
    for name in (names.ARTIFACT, names.REFERENCE, f"fewbits verify {out}", f"fewbits amp {out} --data"):
        assert name in text
    assert "# learn the rounding" not in text


def test_improve_tries_and_tells_why(tiny, tmp_path):
    text = ok(*arguments("improve", tiny, tmp_path / "out", "--method", "smooth,gptq", "--auto")).stdout
    assert "smooth was dropped: no normalization" in text
    assert "gptq was kept: the output error falls" in text or "gptq was dropped: " in text


def test_json_is_one_object_and_nothing_else(tiny, tmp_path):
    result = ok(*arguments("adaround", tiny, tmp_path / "out", "--iterations", 20, "--metric", "sqnr", "--json"))
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert (document["verb"], document["output"]) == ("adaround", str(tmp_path / "out"))
    assert [row["name"] for row in document["improvement"]["methods"]] == ["gptq", "adaround"]
    assert document["improvement"]["after"] == document["scores"]["quantized"]
    assert len(document["pinned"]) == 3
    assert document == json.loads(json.dumps(document, allow_nan=False))


def test_quiet_prints_nothing(tiny, tmp_path):
    assert ok(*arguments("adaround", tiny, tmp_path / "out", "--method", "gptq", "-q")).output == ""


def test_the_report_has_a_section_of_better_weights(tiny, tmp_path):
    out = tmp_path / "out"
    ok(*arguments("adaround", tiny, out, "--method", "gptq", "-q"))
    (out / names.REPORT).unlink()
    ok("report", out)
    page = (out / names.REPORT).read_text()
    assert "Step 4: better weights" in page
    assert page.count('<svg class="change"') == 3
    assert f"fewbits verify {out}" in page


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--method", "gptq,foo"), "Unknown method 'foo': choose of cle, smooth"),
        (("--granularity", "tensor"), "The granularity is layer or block, not 'tensor'"),
        (("--memory", "lots"), "--memory 'lots' is no size: write --memory 500MB or --memory 4GB"),
        (("--memory", "0GB"), "--memory '0GB' is no size"),
        (("--precision", "fp16"), "There is nothing to round in fp16"),
        (("--precision", "w16a16"), "gptq has nothing to gain in w16a16"),
        (("--method", "gptq,cle"), "name it before the methods that round"),
        (("--clips", "no"), "--clips is one of exact, decline, replace, not 'no'"),
        (("--iterations", "0"), "--iterations"),
        (("--device", "gpu"), "'gpu' is no device: write cpu or cuda"),
        (("--min-sqnr", "20"), "--min-sqnr is for the metric sqnr"),
    ],
)
def test_bad_options_are_one_sentence(tiny, tmp_path, more, says):
    for verb in ("adaround", "improve"):
        line = refused(
            *arguments(verb, tiny, tmp_path / "out", *(("--method", "gptq") if verb == "improve" else ()), *more)
        )
        assert says in line


def test_a_gpu_that_is_not_there_is_one_sentence(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for verb in ("adaround", "improve"):
        line = refused(*arguments(verb, tiny, tmp_path / "out", "--device", "cuda"))
        assert "There is no device 'cuda': torch finds no GPU on this machine. Write cpu." in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["adaround", "improve"])
def test_activations_get_what_memory_leaves(tiny, tmp_path, monkeypatch, verb):
    given = []

    def cache(ceiling):
        given.append(ceiling)
        return open_cache(ceiling)

    monkeypatch.setattr("fewbits.improvement.torch_improve.open_cache", cache)
    ok(*arguments(verb, tiny, tmp_path / "small", "--method", "gptq", "--memory", "3GB", "-q"))
    ok(*arguments(verb, tiny, tmp_path / "large", "--method", "gptq", "-q"))
    assert given[0] < 3 * 10**9
    assert given[1] == 4 * 10**9
    small, large = (tmp_path / name / names.ARTIFACT for name in ("small", "large"))
    assert small.read_bytes() == large.read_bytes()


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("64kB", 64000), ("123", 123)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "4 GiB", "-1GB", "1e3", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(SpecError, match="is no size"):
        parse_size(text)


def test_options_become_an_effort():
    found = parse_effort("block", 7, seed=3, device="cuda", with_activations=True, drop=0.5)
    assert (found.granularity, found.iterations) == ("block", 7)
    assert (found.seed, found.device, found.with_activations, found.drop) == (3, "cuda", True, 0.5)


KILLED = """
import os, signal, sys
from fewbits.improvement import torch_improve
gptq, done = torch_improve.CLOSED["gptq"], []
def counted(case):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(case)
    return gptq(case)
torch_improve.CLOSED["gptq"] = counted
from fewbits.cli import main
sys.argv[0] = "fewbits"
main()
"""


def test_a_killed_run_goes_on(tiny, tmp_path):
    def files(folder):
        return {n: (folder / n).read_bytes() for n in (names.ARTIFACT, names.FLOAT, names.ENCODINGS)}

    ok(*arguments("adaround", tiny, tmp_path / "whole", "--method", "gptq", "-q"))
    command = words(*arguments("adaround", tiny, tmp_path / "out", "--method", "gptq", "-q"))
    assert subprocess.run([PROGRAM[0], "-c", KILLED, *command], check=False).returncode == -9
    assert (tmp_path / "out" / STORE).is_file()
    assert not (tmp_path / "out" / names.RECORD).exists()
    # the last layer is all that is left: the same program is killed at the third that it computes
    subprocess.run([PROGRAM[0], "-c", KILLED, *command], check=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
