"""The notebook of examples/notebook: kept without outputs, and its cells run in order from an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "notebook" / "workflow.ipynb"
ALL, FEW = "SAMPLES, EVAL_SAMPLES = 300, 2400", "SAMPLES, EVAL_SAMPLES = 16, 100"
HANDED_OVER = {
    "certificate.json", "convert.txt", "model.encodings.json", "model.float.onnx", "model.qdq.onnx", "record.json",
    "samples.npz",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """An empty folder of which one above has the examples, as in a clone of the repository."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "digits").symlink_to(EXAMPLES / "digits", target_is_directory=True)
    place = tmp_path / "work"
    place.mkdir()
    return place


def read():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def code():
    return ["".join(cell["source"]) for cell in read()["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_outputs():
    document = read()
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in document["cells"]]
    assert len(ids) == len(set(ids)) >= 10
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)


def test_its_cells_run_in_order(folder):
    program = "\n".join(code())
    assert program.count(ALL) == 1
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ALL, FEW)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\npassed\n" in done.stdout
    assert {path.name for path in (folder / "notebook-out" / "deploy").iterdir()} == HANDED_OVER
    for step in ("baseline", "analysis", "litemp"):
        assert (folder / "notebook-out" / step / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter_and_finds_what_its_text_says(folder):
    nbclient = pytest.importorskip("nbclient", reason="needs pip install 'fewbits[examples]'")
    nbformat = pytest.importorskip("nbformat", reason="needs pip install 'fewbits[examples]'")
    pytest.importorskip("ipykernel", reason="needs pip install 'fewbits[examples]'")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    said = "\n".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "activation-sensitive" in said
    assert "5 % of the groups in w8a16 are enough" in said
    assert "\npassed\n" in said
