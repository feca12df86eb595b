"""The site: the reference is complete, and mkdocs builds it without a warning."""

import re
import subprocess
import sys

import pytest
from doc_pages import DOCS, ROOT

import fewbits

sys.path.insert(0, str(DOCS / "hooks"))
import cli_reference


def test_every_public_name_has_its_place_in_the_python_reference():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: fewbits\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(fewbits.__all__)


def test_command_line_reference_has_every_command_and_option():
    import typer

    from fewbits.cli.app import app

    reference = cli_reference.on_page_markdown(f"# Command line\n\n{cli_reference.PLACE}\n")
    assert cli_reference.PLACE not in reference
    sections = dict(re.findall(r"(?ms)^## fewbits (\S+)$(.*?)(?=^## |\Z)", reference))
    program = typer.main.get_command(app)
    assert list(sections) == list(program.commands)
    for name, command in program.commands.items():
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts) if param.param_type_name == "option" else ():
                assert f"`{option}`" in sections[name], f"{name} {option}"
    assert cli_reference.on_page_markdown("another page") == "another page"


def test_pages_are_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f" {page.relative_to(DOCS).as_posix()}\n" in navigation, page


def test_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install 'fewbits[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install 'fewbits[docs]'")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.name: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")}
    assert "fewbits auto" in pages["cli.html"]
    assert "Find the cheapest model that meets the goals" in pages["python.html"]
    for name, page in pages.items():
        found = re.search(r"""(?:src=|<link[^>]+href=)["']?https?:""", page)
        assert found is None, f"{name} loads something from elsewhere"
