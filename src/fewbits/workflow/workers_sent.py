"""What workers are sent: models by value, large ones by path; data by path, and by value where they have none.

What is sent can be pickled, and is the same thing at the other end: the same graph, the same batches.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from fewbits.graph.load import load_model
from fewbits.graph.save import EXTERNAL_BYTES, save_model, to_bytes, weights_bytes
from fewbits.runtime.data.arrays import FileSource, NamedFilesSource
from fewbits.runtime.data.images import ImageSource
from fewbits.runtime.data.input_list import InputListSource
from fewbits.runtime.data.stream import Source, Stream
from fewbits.runtime.data.types import Array, Batch, Dataset
from fewbits.runtime.session import Arrays, Runner, RunOptions, open_session


class SentModel:
    """A graph as its bytes. A large one is a file in the folder for temporary files, which the workers must share.

    Args:
        model: the graph; its file, if it takes one, is there as long as this value.
    """

    def __init__(self, model: ir.Model) -> None:
        self._content: bytes | Path
        if weights_bytes(model) <= EXTERNAL_BYTES:
            self._content = to_bytes(model)
            return
        folder = tempfile.mkdtemp(prefix="fewbits.")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._content = Path(folder) / "model.onnx"
        save_model(model, self._content)

    def load(self) -> ir.Model:
        """Return the graph.

        Raises:
            ModelError: its file is not there.
        """
        return load_model(self._content)

    def open(self, options: RunOptions) -> Runner:
        """Load it into onnxruntime.

        Raises:
            ModelError: onnxruntime cannot load it.
        """
        return open_session(self._content, options=options)


@dataclass(slots=True, eq=False)
class LateRunner:
    """A model that is loaded when it is first run: many workers never need the float model's outputs.

    Attributes:
        model: the model.
        options: how it runs.
    """

    model: SentModel
    options: RunOptions
    _runner: Runner | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> Arrays:
        """Return every output of the model for one batch."""
        return self._opened()(feeds)

    def run(self, names: tuple[str, ...], feeds: Mapping[str, Array]) -> Arrays:
        """Return the named outputs only."""
        return self._opened().run(names, feeds)

    def _opened(self) -> Runner:
        if self._runner is None:
            self._runner = self.model.open(self.options)
        return self._runner


def on_threads(options: RunOptions, threads: int) -> RunOptions:
    """Return the options with as many threads, unless the user said how many."""
    return replace(options, threads=options.threads or threads)


@dataclass(frozen=True, slots=True, eq=False)
class KeptData:
    """A `Dataset` that holds the batches of one way of asking for them, and gives them whatever is asked for."""

    name: str
    has_labels: bool
    kept: tuple[Batch, ...]
    fingerprint: str = ""

    def batches(self, batch_size: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Yield the batches."""
        return iter(self.kept)


def sent_data(data: Dataset, batch_size: int | None, limit: int | None) -> Dataset:
    """Return data that can be sent: files are read by the worker itself, all else is read now and goes by value.

    Args:
        data: any data.
        batch_size: what will be asked for.
        limit: what will be asked for.

    Raises:
        DataError: the data cannot be read.
    """
    if isinstance(data, Stream):
        source = _with_full_paths(data._source)  # noqa: SLF001 - where a stream comes from is nobody else's business
        if source is not None:
            return Stream(data.name, source, data._inputs)  # noqa: SLF001
    return KeptData(data.name, data.has_labels, tuple(data.batches(batch_size, limit)))


def _with_full_paths(source: Source) -> Source | None:
    match source:
        case FileSource() | NamedFilesSource():
            return replace(source, paths=tuple(path.absolute() for path in source.paths))
        case ImageSource():
            files = tuple((path.absolute(), label) for path, label in source.files)
            return replace(source, files=files, folder=source.folder.absolute())
        case InputListSource():
            return replace(source, path=source.path.absolute())
    return None
