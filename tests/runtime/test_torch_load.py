"""Finding the torch model that the user names, and its weights."""

import sys
import warnings
from pathlib import Path

import pytest

from fewbits.errors import ModelError

torch = pytest.importorskip("torch")

ZOO = Path(__file__).parents[1] / "workflow" / "torch_models.py"


def load(*arguments):
    from fewbits.runtime.torch_load import load_torch

    return load_torch(*arguments)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's in the current folder."""
    (tmp_path / "my_nets").mkdir()
    (tmp_path / "my_nets" / "__init__.py").write_text("")
    (tmp_path / "my_nets" / "small.py").write_text(ZOO.read_text())
    (tmp_path / "my_nets" / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_nets"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["cnn", "Cnn", "ready"])
def test_a_factory_a_class_and_a_module_in_a_file_or_a_package(package, name):
    assert type(load(f"{ZOO}:{name}")).__name__ == "Cnn"
    assert type(load(f"my_nets.small:{name}")).__name__ == "Cnn"
    assert str(package) not in sys.path


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_package.nets:f", "no module 'no_such_package' to import"),
        ("my_nets.absent:f", "no module 'my_nets.absent' to import"),
        ("my_nets.broken:f", "module 'my_nets.broken' failed at .*broken.py:1: ModuleNotFoundError.*nothing_of_that"),
        ("my_nets.small:absent", "module 'my_nets.small' has no 'absent': it has .*Cnn"),
        ("absent.py:f", "names the file 'absent.py', which does not exist"),
        (f"{ZOO}:absent", "has no function 'absent'"),
        (f"{ZOO}:failing", r"factory .* failed at .*torch_models.py:\d+: ValueError: no such checkpoint"),
        (f"{ZOO}:wants", r"needs arguments \(size\)"),
        (f"{ZOO}:a_dict", "gives a dict, which is no nn.Module"),
        ("resnet18", "names no torch model"),
        ("absent.pt2", "program 'absent.pt2' does not exist"),
    ],
)
def test_a_name_that_gives_no_model_is_refused(package, spec, said):
    with pytest.raises(ModelError, match=said):
        load(spec)


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04 cut short"])
def test_a_broken_program_is_refused(tmp_path, content, capfd):
    (tmp_path / "p.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a program that torch .* can load"):
        load(tmp_path / "p.pt2")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "state_dict": state}])
def test_weights_are_loaded(tmp_path, wrap):
    state = {name: torch.full_like(tensor, 2) for name, tensor in load(f"{ZOO}:cnn").state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    loaded = load(f"{ZOO}:cnn", tmp_path / "w.pt").state_dict()
    assert all((tensor == 2).all() for tensor in loaded.values())


class Trap:
    def __reduce__(self):
        return (Path("trapped").write_text, ("",))


def test_weights_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = load(f"{ZOO}:cnn").state_dict()
    bad = {
        "absent": None,
        "cut": b"PK",
        "trap": Trap(),
        "list": [torch.ones(1)],
        "missing": {name: tensor for name, tensor in state.items() if name != "conv.weight"},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "shape": {**state, "head.bias": torch.ones(9)},
    }
    said = {
        "absent": "do not exist",
        "cut": "no file of torch.save",
        "trap": "hold more than tensors",
        "list": "hold a list, no state dict",
        "missing": r"do not match the module: 1 missing \('conv.weight'\)",
        "parallel": r"9 missing \('conv.weight', .*\) and 9 unknown \('module.conv.weight'",
        "shape": "do not fit the module: size mismatch for head.bias",
    }
    for name, content in bad.items():
        if isinstance(content, bytes):
            Path(f"{name}.pt").write_bytes(content)
        elif content is not None:
            torch.save(content, f"{name}.pt")
        with pytest.raises(ModelError, match=said[name]):
            load(f"{ZOO}:cnn", f"{name}.pt")
    assert not Path("trapped").exists()


def test_a_script_module_is_refused():
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # later versions of torch warn
        scripted = torch.jit.trace(torch.nn.ReLU(), torch.ones(1))
    with pytest.raises(ModelError, match="TorchScript"):
        load(scripted)
