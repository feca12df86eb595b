"""Find the torch model that the user names: a module, a saved program, or a factory in a file or a package.

In: an `nn.Module`, a `torch.export.ExportedProgram`, the path of a .pt2 file, `file.py:factory` or
`pkg.module:factory`. Out: a module or a program. Needs torch; imported inside functions only.
"""

import importlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from fewbits.errors import ModelError, SpecError
from fewbits.runtime.data.userfile import load_user_function, required_parameters, split_user_spec, user_code
from fewbits.runtime.torch_quiet import quiet

Module: TypeAlias = nn.Module | torch.export.ExportedProgram
_WRAPPERS = ("state_dict", "model_state_dict")


def load_torch(model: Any, weights: str | Path | None = None) -> Module:
    """Return the module or program that `model` is or names, with `weights` loaded into it.

    Args:
        model: an `nn.Module`, an `ExportedProgram`, a .pt2 file, `file.py:factory` or `pkg.module:factory`; the named
            thing is a module, or a function without arguments that returns one.
        weights: a state dict saved by `torch.save`; loaded into the given module itself. Only tensors are read of it.

    Raises:
        ModelError: it cannot be found, imported, called or read, or is no module; or the weights do not fit.
        SpecError: weights for a saved program, which has its own.
    """
    found = _find(model)
    if isinstance(found, torch.export.ExportedProgram):
        if weights is not None:
            raise SpecError("A saved program has its own weights: leave --weights out, or name a factory.")
        return found
    if not isinstance(found, nn.Module):
        what = f"{model!r} gives" if isinstance(model, str) else "convert was given"
        raise ModelError(f"{what} a {type(found).__name__}, which is no nn.Module: return the module itself.")
    if isinstance(found, torch.jit.ScriptModule):
        raise ModelError("A TorchScript module cannot be exported: give the nn.Module that it was made from.")
    if weights is not None:
        _load_weights(found, Path(weights).expanduser())
    return found


def _find(model: Any) -> Any:
    if not isinstance(model, str | Path):
        return model
    text = str(model)
    if text.endswith(".pt2"):
        return _load_program(Path(text).expanduser())
    if split_user_spec(text) is not None:
        user = load_user_function(text, error=ModelError)
        return _build(user.function, text, user.folder)
    module, colon, name = text.rpartition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ModelError(f"{text!r} names no torch model: write pkg.module:factory, file.py:factory or program.pt2.")
    return _build(_import(module, name), text, Path.cwd())


def _import(module: str, name: str) -> Any:
    with user_code(f"The module {module!r}", error=ModelError, folder=Path.cwd()):
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ModelError(
                f"There is no module {error.name!r} to import: install its package, run in the folder that holds it, "
                f"or write file.py:{name}."
            ) from None
    if not hasattr(loaded, name):
        callables = sorted(key for key, value in vars(loaded).items() if callable(value) and key[0] != "_")
        raise ModelError(f"The module {module!r} has no {name!r}: it has {', '.join(callables[:8]) or 'nothing'}.")
    return getattr(loaded, name)


def _build(factory: Any, spec: str, folder: Path) -> Any:
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    if needed := required_parameters(factory):
        raise ModelError(
            f"The factory {spec!r} needs arguments ({', '.join(needed)}): write a function without any that calls it."
        )
    function: Callable[[], Any] = factory
    with user_code(f"The factory {spec!r}", error=ModelError, folder=folder):
        return function()


def _load_program(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise ModelError(f"The program {str(path)!r} does not exist: check the path.")
    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:  # a broken archive raises bare RuntimeErrors, BadZipFile, KeyError ...
        raise ModelError(
            f"{str(path)!r} is not a program that torch {torch.__version__} can load ({type(error).__name__}): save it "
            f"again with torch.export.save, under this version of torch."
        ) from error


def _load_weights(module: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"The weights {str(path)!r} do not exist: check the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and _is_archive(path):
            raise ModelError(
                f"The weights {str(path)!r} hold more than tensors, and only tensors are loaded: save "
                f"module.state_dict() with torch.save."
            ) from error
        raise ModelError(
            f"The weights {str(path)!r} cannot be loaded: they are no file of torch.save, or it is cut short. Save "
            f"module.state_dict() again."
        ) from error
    state = next((state[key] for key in _WRAPPERS if isinstance(state, Mapping) and key in state), state)
    if not isinstance(state, Mapping):
        raise ModelError(
            f"The weights {str(path)!r} hold a {type(state).__name__}, no state dict: save module.state_dict()."
        )
    _check_keys(module, state, path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise ModelError(f"The weights {str(path)!r} do not fit the module: {reason.rstrip('.')}.") from error


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it begins to look for its directory, and finds that of an archive in parts
        return False


def _check_keys(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    wanted = module.state_dict()
    missing, unknown = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing or unknown:
        parts = [f"{len(keys)} {what} ({', '.join(map(repr, keys[:3]))})" for keys, what in
                 ((missing, "missing"), (unknown, "unknown")) if keys]  # fmt: skip
        raise ModelError(
            f"The keys of the weights {str(path)!r} do not match the module: {' and '.join(parts)}. Build the module "
            f"as it was trained, or rename the keys."
        )
