"""Load `file.py:function`, and turn what goes wrong in the user's code into one sentence with file and line."""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fewbits.errors import FewbitsError

_PACKAGE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A function from the user's own file; `folder` is on sys.path while it runs."""

    function: Callable[..., Any]
    path: Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the file."""
        return self.path.parent


def split_user_spec(text: str) -> tuple[Path, str] | None:
    """Return (file, function) of `file.py:function`, or None when `text` has another form."""
    file, colon, name = text.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") and name else None


def load_user_function(spec: str, *, error: type[FewbitsError]) -> UserFunction:
    """Load the function that `file.py:function` names; a file with the same content is run only once.

    Raises:
        error: no such file or function, it is not callable, or the file fails on import.
    """
    parts = split_user_spec(spec)
    if parts is None:
        raise error(f"{spec!r} does not name a function: write file.py:function.")
    path, name = parts[0].expanduser(), parts[1]
    if not path.is_file():
        raise error(f"{spec!r} names the file {str(path)!r}, which does not exist: check the path.")
    module = _load_module(path.resolve(), error)
    function = getattr(module, name, None)
    if not callable(function):
        found = sorted(key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_")
        state = "has no function" if function is None else "has something that is no function under the name"
        raise error(f"{str(path)!r} {state} {name!r}: it has {', '.join(found) or 'none'}.")
    return UserFunction(function, path.resolve(), name)


def _load_module(path: Path, error: type[FewbitsError]) -> ModuleType:
    source = path.read_bytes()
    # The content is part of the name: an edited file is loaded anew, an unedited one keeps its state.
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    key = f"_fewbits_user_{path.stem}_{digest}"
    if key in sys.modules:
        return sys.modules[key]
    module = ModuleType(key)
    module.__file__ = str(path)
    sys.modules[key] = module  # dataclasses and pickle look their module up here while it is being run
    try:
        with user_code(f"The file {str(path)!r}", error=error, folder=path.parent):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[key]
        raise
    return module


@contextmanager
def user_code(what: str, *, error: type[FewbitsError], folder: Path | None = None) -> Iterator[None]:
    """Run the user's code: `folder` is on sys.path, an exception becomes `error` with file, line and its own text."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        yield
    except FewbitsError:
        raise
    except Exception as cause:
        place, text = code_place(cause), str(cause).strip().rstrip(".")
        said = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
        raise error(f"{what} failed at {place}: {said}. Mend it there and run again.") from cause
    finally:
        if folder is not None and str(folder) in sys.path:
            sys.path.remove(str(folder))


def code_place(cause: BaseException) -> str:
    """Return `file:line` of the deepest frame in the user's own code: not ours, not an installed library's."""
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{cause.filename}:{cause.lineno}"
    frames = traceback.extract_tb(cause.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith((_PACKAGE, "<frozen"))]
    own = [frame for frame in outside if not _is_library(frame.filename)]
    frame = (own or outside or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _is_library(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith((sys.base_prefix, sys.prefix))


def definition_place(function: Callable[..., Any]) -> str:
    """Return `file:line` where a function is written, or its name where Python does not know."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def required_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that must be given; empty where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
