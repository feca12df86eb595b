"""Links, anchors and named files of all pages exist; command lines have verbs and options that are there."""

import re
import shlex
from urllib.parse import unquote

import pytest
import typer
from doc_pages import DOCS, PAGES, ROOT, command_lines, name_of, without_code

from fewbits.cli.app import app

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
NAMED = re.compile(r"`((?:docs|src|examples|benchmarks|tests)/[\w./*-]+)`")
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def anchors(text):
    """Return what headings are called in links, where mkdocs and the usual forges agree on it."""
    found = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", re.sub(r"(?ms)^(```+).*?^\1 *$", "", text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)).strip().lower()
        forge, site = re.sub(r"\s", "-", plain), re.sub(r"[-\s]+", "-", plain)
        if forge == site:
            found.add(site)
    return found


@each_page
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        to = (page.parent / file).resolve() if file else page
        assert to.exists(), f"{link}: no such file"
        if DOCS in page.parents:
            assert DOCS in to.parents, f"{link} leaves docs/, and so the site"
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to.read_text(encoding="utf-8")), f"{link}: no such heading"


@each_page
def test_files_that_the_text_names_exist(page):
    for named in NAMED.findall(page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(named)), f"{named} does not exist"


def options_of(command):
    return {"-h", "--help", *(name for param in command.params for name in (*param.opts, *param.secondary_opts))}


@each_page
def test_command_lines_have_verbs_and_options_that_exist(page):
    program = typer.main.get_command(app)
    for line in command_lines(page.read_text(encoding="utf-8")):
        words = shlex.split(line.partition(" # ")[0].replace("&& fewbits", "; fewbits").split(";")[0])[1:]
        own = options_of(program)
        while words and words[0] in own:
            words = words[2 if words[0] == "--config" else 1 :]
        if not words or not re.fullmatch(r"[a-z-]+", words[0]):
            continue
        verb = program.commands.get(words[0])
        assert verb is not None, f"{line}: no such verb"
        options = {option for param in verb.params for option in (*param.opts, *param.secondary_opts)} | {
            "-h",
            "--help",
        }
        for word in words[1:]:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options, f"{line}: {words[0]} has no option {word}"


def test_links_and_headings_are_found():
    assert LINK.findall(without_code("see [a](b.md#c), `[no](code.md)`\n\n    [nor](this.md)\n")) == ["b.md#c"]
    assert anchors("# Baseline: step 1\n```sh\n# no heading\n```\n") == {"baseline-step-1"}
    assert command_lines("    fewbits amp m.onnx \\\n      --data d\n```sh\nfewbits runs\n```\ntext\n") == [
        "fewbits runs", "fewbits amp m.onnx  --data d",
    ]  # fmt: skip
