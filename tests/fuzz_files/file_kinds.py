"""Every kind of file that comes from outside: what can be wrong with it, and what a verb does with it."""

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from damage_arrays import damaged_npy, damaged_npz
from damage_bytes import Damage, damaged_bytes, damaged_json, damaged_text
from damage_models import damaged_onnx
from damage_others import damaged_checkpoint, damaged_png, damaged_store

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """One file that is damaged.

    Attributes:
        file: its name in the folder of its kind; may be a pattern.
        damages: ways of damaging it, each as likely as the others.
        read: what a verb does with the folder afterwards.
    """

    file: str
    damages: tuple[Damage, ...]
    read: Read


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: as reports call it.
        seeds: folder of good files.
        targets: of which one is damaged.
        share: of the cases, relative to the others.
    """

    name: str
    seeds: str
    targets: tuple[Target, ...]
    share: float = 1.0

    def damage(self, folder: Path, rng: random.Random) -> Target:
        """Damage one file in a folder, and return what is to be read."""
        target = rng.choice(self.targets)
        path = rng.choice(sorted(folder.glob(target.file)))
        path.write_bytes(rng.choice(target.damages)(path.read_bytes(), rng))
        return target


def _inputs() -> Any:
    from fewbits.runtime.data.types import InputInfo

    return (InputInfo("image", np.dtype(np.float32), ("batch", 1, 8, 8)),)


def _data(name: str) -> Read:
    def read(folder: Path) -> None:
        from fewbits.runtime.data import open_data

        opened = open_data(folder / name, inputs=_inputs())
        assert opened.fingerprint
        for batch in opened.batches(4, 16):
            assert batch.size
        assert opened.has_labels in (True, False)

    return read


def _inspect(name: str) -> Read:
    def read(folder: Path) -> None:
        from fewbits import inspect

        inspect(folder / name)

    return read


def _prepare(folder: Path) -> None:
    from fewbits import prepare
    from fewbits.runtime.session import RunOptions

    prepare(folder / "model.onnx", output=folder / "out" / "p.onnx", run_options=RunOptions(threads=1))


def _import(folder: Path) -> None:
    from fewbits.runtime.session import RunOptions
    from fewbits.workflow.adopt import import_qdq

    import_qdq(folder / "model.qdq.onnx", output=folder / "out", run_options=RunOptions(threads=1))


@cache
def _graph(path: Path) -> Any:
    from fewbits.graph.load import load_model

    return load_model(path)


def _encodings(folder: Path) -> None:
    from fewbits.runtime.session import RunOptions
    from fewbits.workflow.adopt import apply_encodings

    options = RunOptions(threads=1)
    apply_encodings(folder / "model.onnx", folder / "e.json", output=folder / "out", run_options=options)


def _settings(folder: Path) -> None:
    from fewbits.cli.settings import open_settings

    settings = open_settings(folder / "fewbits.toml")
    assert settings is not None
    for verb in ("baseline", "auto", "quantize"):
        settings.defaults(verb, [])


def _target(text: str) -> Read:
    def read(folder: Path) -> None:
        from fewbits.graph.prepare import prepare
        from fewbits.quantization.profile import Profile
        from fewbits.quantization.resolve import resolve
        from fewbits.spec.target import load_target

        target = load_target(text.format(folder=folder))
        resolve(_prepared(prepare), Profile.parse("w8a8"), target)

    return read


@cache
def _prepared(prepare: Callable[..., Any]) -> Any:
    from borrowed import tiny_model

    from fewbits.graph.load import load_model

    return prepare(load_model(tiny_model())).model


def _profile(name: str) -> Read:
    def read(folder: Path) -> None:
        from fewbits.workflow.profiles import open_profile

        open_profile("w8a8", folder / name)

    return read


def _costs(folder: Path) -> None:
    from fewbits.analysis.cost_table import table_costs

    table_costs(_layout(), folder / "c.csv")


@cache
def _layout() -> Any:
    from file_seeds import cost_layout

    return cost_layout()


def _report(folder: Path) -> None:
    from fewbits.workflow.report import report
    from fewbits.workflow.runs import runs

    runs(folder)
    report(folder, folder / "page.html")


def _export(folder: Path) -> None:
    from fewbits.workflow.export import export
    from fewbits.workflow.runs import runs

    runs(folder)
    before = _listed(folder.parent)
    export(folder, output=folder / "out", encodings_version="2.0.0")
    beside = _listed(folder.parent) - before
    assert all(path.is_relative_to(folder / "out") for path in beside), beside


def _export_vouched(folder: Path) -> None:
    """Export a folder whose record vouches for its files, whatever is in them."""
    from fewbits.artifact.folder import file_facts

    document = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**document, "files": file_facts(folder)}))
    _export(folder)


def _listed(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _latency(folder: Path) -> None:
    from fewbits.workflow.auto_latency import latency

    latency(folder, "w8a8", "2ms")


def _samples(folder: Path) -> None:
    from fewbits.artifact.samples import read_samples

    read_samples(folder / "samples.npz")


def _store(folder: Path) -> None:
    from fewbits.runtime.store import STORE, Store, key_of
    from fewbits.workflow.runs import runs

    runs(folder)
    with Store(folder / STORE) as store:
        for number in range(40):
            found = store.get(key_of("a", number))
            assert found in (None, {"error": number / 7, "names": ["conv_1", "x" * 200]}), "damage passed for a result"
        store.put(key_of("b"), 1)
        assert store.get(key_of("b")) == 1


def _hub(folder: Path) -> None:
    from file_seeds import HUB_FACTS

    from fewbits.deployment.hub_results import OutputMatch, profile_figures
    from fewbits.workflow.hub_file import HubFile

    book = HubFile(folder / "hub.json", HUB_FACTS)
    book.job("compile"), book.is_done("compile")
    profile_figures(book.get("profile") or {})
    for match in (book.get("outputs") or {}).values():
        OutputMatch(**match)
    book.put(model_id="m2")


def _frames(folder: Path) -> None:
    """Let the frames come out of a worker that answers what stands in a file."""
    from file_seeds import FRAMES

    from fewbits.deployment.served import Served
    from fewbits.errors import ModelError

    with (folder / "frames").open("rb") as file:
        served = Served(
            "", (), time_limit_s=1, what="The worker", failed=lambda code, said: ModelError("it failed, whatever")
        )
        served._process, served._said = _Ended(file), io.BytesIO()
        served._listen()
        for _ in range(FRAMES):
            assert set(served({})) == {"logits"}


class _Ended:
    """Stands for a process that said all it had to say."""

    def __init__(self, stdout: Any) -> None:
        self.stdout, self.stdin = stdout, io.BytesIO()

    def wait(self, _limit: float) -> int:
        return 0


def _checkpoint(folder: Path) -> None:
    from fewbits.training.torch_checkpoint import Checkpoint

    Checkpoint(folder / "qat.checkpoint", lambda: "key").read()


def _weights(folder: Path) -> None:
    import torch

    from fewbits.runtime.torch_load import load_torch

    load_torch(torch.nn.Linear(4, 3), folder / "w.pt")


_JSON = (damaged_json, damaged_json, damaged_text, damaged_bytes)
_TEXT = (damaged_text, damaged_text, damaged_bytes)
_ONNX = (damaged_onnx, damaged_onnx, damaged_bytes)
_NPZ = (damaged_npz, damaged_npz, damaged_bytes)

_IMAGES = (damaged_bytes, damaged_bytes, damaged_png)
_STORE = (damaged_bytes, damaged_bytes, damaged_store)
_TORCH = (damaged_checkpoint, damaged_bytes)


def _kind(name: str, share: float, *targets: Target, seeds: str = "") -> FileKind:
    return FileKind(name, seeds or name, targets, share)


def _all_kinds() -> Iterator[FileKind]:
    """Yield the kinds; shares follow from what there is to find, and from what a case costs."""
    yield _kind("ONNX, looked at", 2, Target("model.onnx", _ONNX, _inspect("model.onnx")), seeds="onnx")
    yield _kind("ONNX, run", 2, Target("model.onnx", _ONNX, _prepare), seeds="onnx")
    yield _kind("ONNX, a real network", 0.15, Target("digits.onnx", _ONNX, _inspect("digits.onnx")), seeds="onnx")
    model, data = Target("model.onnx", _ONNX, _prepare), Target("weights.data", (damaged_bytes,), _prepare)
    yield _kind("ONNX with external data", 1, model, data, seeds="onnx external")
    yield _kind("QDQ file", 0.2, Target("model.qdq.onnx", _ONNX, _import), seeds="qdq")
    archives = (Target(name, _NPZ, _data(name)) for name in ("d.npz", "large.npz"))
    yield _kind("arrays", 6, *archives, Target("d.npy", (damaged_npy, damaged_bytes), _data("d.npy")))
    yield _kind("images", 5, Target("[0-9]*", _IMAGES, _data(".")), Target("labels.csv", _TEXT, _data(".")))
    lines = Target("input_list.txt", _TEXT, _data("input_list.txt"))
    yield _kind("input list", 2, lines, Target("*.raw", (damaged_bytes,), _data("input_list.txt")))
    yield _kind("settings", 4, Target("fewbits.toml", _TEXT, _settings))
    yield _kind("target", 4, Target("t.toml", _TEXT, _target("{folder}/t.toml")))
    yield _kind("AIMET configuration", 4, Target("a.json", _JSON, _target("aimet:{folder}/a.json")), seeds="aimet")
    profiles = Target("p.json", _JSON, _profile("p.json")), Target("p.toml", _TEXT, _profile("p.toml"))
    yield _kind("profile", 2, *profiles)
    yield _kind("table of costs", 2, Target("c.csv", _TEXT, _costs), seeds="costs")
    for version in ("0.6.1", "1.0.0", "2.0.0"):
        yield _kind(f"encodings {version}", 0.5, Target("e.json", _JSON, _encodings))
    records = (Target(pattern, _JSON, _report) for pattern in ("*.json", "*/record.json", "*/*/record.json"))
    yield _kind("records and certificates", 1.2, *records, seeds="records")
    beside = Target("model.encodings.json", _JSON, _export_vouched), Target("samples.npz", _NPZ, _export_vouched)
    yield _kind("output folder", 1.5, Target("record.json", _JSON, _export), *beside, seeds="output")
    yield _kind("stored samples", 4, Target("samples.npz", _NPZ, _samples), seeds="samples")
    yield _kind("frames of a worker", 1.5, Target("frames", (damaged_bytes,), _frames), seeds="frames")
    yield _kind("store of results", 3, Target("store.sqlite", _STORE, _store), seeds="store")
    files = (Target(name, _JSON, _latency) for name in ("latency.json", "record.json"))
    yield _kind("latency.json", 1, *files, seeds="latency")
    yield _kind("hub.json", 3, Target("hub.json", _JSON, _hub), seeds="hub")
    yield _kind("checkpoint of training", 1.5, Target("qat.checkpoint", _TORCH, _checkpoint), seeds="checkpoint")
    yield _kind("weights of a module", 1, Target("w.pt", _TORCH, _weights), seeds="weights")


KINDS: Mapping[str, FileKind] = {kind.name: kind for kind in _all_kinds()}


def fresh(seeds: Path, kind: FileKind, folder: Path) -> None:
    """Put the good files of a kind into `folder`, which is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / kind.seeds, folder, symlinks=True)
