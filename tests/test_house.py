"""The house rules that no linter knows: who imports whom, what is public, how fast the command line starts."""

import ast
import importlib
import inspect
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fewbits

ROOT = Path(fewbits.__file__).parent
ROOMS = (
    "errors", "spec", "numerics", "graph", "runtime", "quantization", "artifact", "deployment", "analysis",
    "improvement", "training", "reporting", "workflow", "cli",
)  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = ("torch", "plotly", "onnxruntime")
TORCH_ROOMS = ("runtime", "analysis", "improvement", "training")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports; with `top_only`, those that importing the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _top_level(tree) if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield str(node.module)
            if node.module == "fewbits":
                yield from (f"fewbits.{alias.name}" for alias in node.names)


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _top_level(child)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_before_it(path):
    room = room_of(path)
    if room == "__init__":
        return
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "fewbits" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {module}"


def test_every_folder_is_a_known_room():
    assert {room_of(path) for path in FILES} <= {*ROOMS, "__init__", "__main__"}


def test_onnxruntime_is_imported_in_runtime_and_deployment_only():
    for path in FILES:
        if room_of(path) not in ("runtime", "deployment"):
            assert not any(m.split(".")[0] == "onnxruntime" for m in imports(path)), path


def is_torch(path: Path) -> bool:
    """Say whether a file is of those that need torch, which are themselves imported inside functions."""
    return room_of(path) in TORCH_ROOMS and any(part.startswith("torch_") for part in path.relative_to(ROOT).parts)


def test_torch_and_plotly_are_imported_inside_functions_only():
    for path in FILES:
        roots = {module.split(".")[0] for module in imports(path, top_only=True)}
        allowed = {"torch"} if is_torch(path) else set()
        assert not (roots & {"torch", "plotly"}) - allowed, path


def test_torch_is_imported_in_its_own_files_only():
    for path in FILES:
        if not is_torch(path):
            assert not any(m.split(".")[0] == "torch" for m in imports(path)), path
            named = (m.split(".") for m in imports(path, top_only=True))
            assert not any(part.startswith("torch_") for parts in named for part in parts), path


def test_no_file_is_longer_than_400_lines():
    long = {str(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


@pytest.mark.parametrize("name", fewbits.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(fewbits, name)
    assert inspect.getdoc(value), name
    assert name in dir(fewbits)


def test_public_names_are_the_lazy_names():
    assert sorted(fewbits.__all__) == sorted(fewbits._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fewbits.nonsense  # noqa: B018


def test_importing_fewbits_loads_nothing_heavy():
    loaded = run("import sys, fewbits; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & {*HEAVY, "numpy", "onnx"}


def test_importing_the_verbs_loads_neither_torch_nor_plotly():
    code = "import sys, fewbits; [getattr(fewbits, n) for n in fewbits.__all__]; print(*sys.modules)"
    assert not {name.split(".")[0] for name in run(code).split()} & {"torch", "plotly"}


def test_importing_the_command_line_loads_neither_numpy_nor_onnx():
    loaded = run("import sys, fewbits.cli; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & {*HEAVY, "numpy", "onnx", "onnx_ir"}


def test_help_is_quick():
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        run("import sys; sys.argv = ['fewbits', '--help']; from fewbits.cli import main; main()")
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.8, seconds  # 0.6 s is the aim; the margin is for busy machines


def test_every_module_can_be_imported():
    for path in FILES:
        if room_of(path) != "__main__" and not is_torch(path):
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            assert importlib.import_module(name).__doc__, f"{name} does not say what it is"
