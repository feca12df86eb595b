"""The code of the tutorial and of the how-tos is run, page by page, and prints what the pages say it prints."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import doc_pages
import pytest
from doc_pages import DOCS, ROOT, blocks, name_of
from typer.testing import CliRunner

from fewbits.artifact import names
from fewbits.artifact.samples import read_samples
from fewbits.cli.app import app
from fewbits.workflow import hub_jobs
from fewbits.workflow.quantize import quantize
from recorded_hub import Transport

TUTORIAL = DOCS / "tutorial.md"
HOW_TO = DOCS / "how-to"
START = HOW_TO / "index.md"
"""Its blocks are run before those of every other how-to."""
STOP = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
"""Ends what a block left running in the background."""
KINDS = ("sh", "python", "text", "json", "toml")
SLACK = 0.5, 0.05
"""How far figures may be from those shown: a processor of another kind rounds a few samples otherwise. In the figure's
own unit, and as a share of it. Seconds and memory may be anything."""
FREE = re.compile(r"^(s|MB|min)\W*$")
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")

OTHERS = [START, *sorted({*HOW_TO.glob("*.md")} - {START}), DOCS / "reference" / "python.md"]


def run_page(page, folder):
    """Run the blocks of a page in order in `folder`; return what was run, and what was shown and printed.

    Returns:
        How many blocks were run, and how many that show output were found in what was printed before them.
    """
    printed, ran, found = "", 0, 0
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{name_of(page)}:{block.line}"
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
        elif block.is_run:
            printed = run_block(block, folder, where)
            ran += 1
        elif block.kind == "text":
            assert_shown(block.body, printed, where)
            found += 1
    return ran, found


def run_block(block, folder, where):
    command = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else [sys.executable, "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    body = STOP + block.body if block.kind == "sh" else block.body
    done = subprocess.run(
        [*command, body], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "COLUMNS": "100", "PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def assert_shown(shown, printed, where):
    """Compare word by word; `...` on a line of its own stands for anything."""
    words, at = printed.split(), 0
    for piece in re.split(r"^[ \t]*\.\.\.[ \t]*$", shown, flags=re.MULTILINE):
        wanted = piece.split()
        starts = range(at, len(words) - len(wanted) + 1)
        found = next((start for start in starts if is_same(wanted, words[start : start + len(wanted)])), None)
        assert found is not None, f"{where}: not printed:\n{piece}\nbut:\n{printed}"
        at = found + len(wanted)


def is_same(wanted, words):
    after = [*wanted[1:], ""]
    return all(
        is_near(one, other, is_free=bool(FREE.match(unit)))
        for one, other, unit in zip(wanted, words, after, strict=True)
    )


def is_near(one, other, *, is_free=False):
    """Whether two words are equal but for figures, and these are near each other."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(map(float, NUMBER.findall(one)), map(float, NUMBER.findall(other)), strict=True)
    return is_free or all(abs(a - b) <= SLACK[0] + SLACK[1] * abs(a) for a, b in pairs)


@pytest.fixture
def folder(tmp_path):
    """A folder with the example of the repository in it."""
    shutil.copytree(ROOT / "examples" / "digits", tmp_path / "examples" / "digits")
    return tmp_path


def counted(page):
    """Return how many blocks of a page are to be run, and how many show output."""
    mine = [block for block in blocks(page.read_text(encoding="utf-8")) if not block.title]
    return sum(block.is_run for block in mine), sum(block.kind == "text" for block in mine)


def test_tutorial(folder):
    ran, shown = run_page(TUTORIAL, folder)
    assert (ran, shown) == counted(TUTORIAL)
    assert ran >= 3
    assert shown >= 5


@pytest.mark.slow
@pytest.mark.parametrize("page", OTHERS, ids=name_of)
def test_other_pages(page, folder):
    assert run_page(START, folder) == counted(START)
    if page != START:
        assert run_page(page, folder) == counted(page)


@pytest.mark.parametrize("page", [DOCS / "index.md", DOCS / "onboarding.md", TUTORIAL, *OTHERS], ids=name_of)
def test_every_block_says_what_it_is(page):
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{name_of(page)}:{block.line}"
        assert block.kind in KINDS, f"{where}: say what it is: {', '.join(KINDS)}"
        first = block.body.partition("\n")[0]
        assert block.is_run or block.kind != "sh" or len(first.split()) > 3, f"{where}: say what it needs"


def test_figures_may_differ_a_little_and_words_not_at_all():
    assert is_same(["drop", "2.00", "%", "(11", "s"], ["drop", "2.21", "%", "(93", "s"])
    assert not is_same(["drop", "2.00"], ["drop", "4.00"])
    assert not is_near("w8a8", "w8a16")
    assert not is_near("ok", "poor")
    assert_shown("a 1\n...\nc", "a 1 b b c", "here")
    with pytest.raises(AssertionError, match="not printed"):
        assert_shown("c\n...\na", "a b c", "here")


def test_a_block_that_needs_what_is_not_here_is_not_run():
    found = blocks('```sh\n# needs a phone\nadb\n```\n\n```sh\nls # needs\n```\n\n```python title="a.py"\nx = 1\n```\n')
    assert [block.is_run for block in found] == [False, True, False]
    assert [block.line for block in found] == [1, 6, 10]
    assert found[2].title == "a.py"


def test_a_block_that_needs_an_extra_alone_is_run_where_it_is_installed(monkeypatch):
    page = {name: blocks((HOW_TO / name).read_text(encoding="utf-8")) for name in ("cluster.md", "snapdragon.md")}
    assert [block.extra for block in page["cluster.md"] if block.kind == "sh"] == ["", "dask", "ray"]
    assert [block.extra for block in page["snapdragon.md"] if block.kind == "sh"] == ["", "", "qnn", "", ""]
    for answer in (True, False):
        monkeypatch.setattr(doc_pages, "is_installed", lambda extra, answer=answer: answer)
        assert [block.is_run for block in page["cluster.md"] if block.extra] == [answer, answer]
        assert not page["snapdragon.md"][-1].is_run


def test_what_a_block_leaves_in_the_background_is_ended(tmp_path):
    begin = time.monotonic()
    run_block(blocks("```sh\nsleep 60 &\necho done\n```\n")[0], tmp_path, "here")
    assert time.monotonic() - begin < 30


def test_submit_of_the_how_to_runs_against_a_stand_in_for_the_service(folder, monkeypatch):
    """All of the page that can be run without an account: what the command would send, and what it prints."""
    (block,) = [b for b in blocks((HOW_TO / "snapdragon.md").read_text(encoding="utf-8")) if "fewbits submit" in b.body]
    (line,) = [shlex.split(line) for line in block.body.splitlines() if line.startswith("fewbits")]
    digits = folder / "examples" / "digits"
    monkeypatch.chdir(folder)
    quantize(digits / "digits.onnx", data=digits / "calib.npz", samples=8, ranges="minmax", output="run")
    service = Transport()
    service.outputs = {"output_0": [one["logits"] for one in read_samples(Path("run") / names.SAMPLES).outputs]}
    monkeypatch.setitem(sys.modules, "qai_hub", service.package())
    monkeypatch.setattr(hub_jobs, "POLL_S", 0.0)
    result = CliRunner().invoke(app, line[1:])
    assert result.exit_code == 0, result.output
    assert "Samsung Galaxy S24" in result.stdout
    assert service.calls("submit_compile_job")[0][3] == {"image": ((1, 1, 8, 8), "float32")}
