"""Finished layers of an improvement, kept in a run's store."""

import base64
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.improvement.layer_case import Rounded
from fewbits.runtime.store import Store, key_of


class RoundedStore:
    """Results of layers by node; the same run finds them again.

    Args:
        store: where they are; None keeps nothing.
        key: returns the hash of everything that they depend on: models, data, method, effort; called on first use.
    """

    def __init__(self, store: Store | None = None, key: Callable[[], str] = str) -> None:
        self._store, self._make_key = store, key

    @cached_property
    def _key(self) -> str:
        return self._make_key()

    def known(self, node: str) -> Rounded | None:
        """Return what is known of a layer, or None.

        Raises:
            OutputError: the store cannot be read.
        """
        found = None if self._store is None else self._store.get(key_of("rounded", self._key, node))
        return None if found is None else _unpacked(found)

    def keep(self, node: str, found: Rounded) -> Rounded:
        """Put down what a layer became, and return it.

        Raises:
            OutputError: the store cannot be written.
        """
        if self._store is not None:
            self._store.put(key_of("rounded", self._key, node), _packed(found))
        return found

    def remember(self, node: str, make: Callable[[], Rounded]) -> Rounded:
        """Return what is known of a layer; where nothing is, what `make` returns, kept for the next time.

        Raises:
            OutputError: the store cannot be read or written.
        """
        known = self.known(node)
        return self.keep(node, make()) if known is None else known


def _packed(found: Rounded) -> dict[str, Any]:
    return {
        "codes": _text(found.codes.astype(np.int8)),
        "shape": list(found.codes.shape),
        "scale": _text(found.scale),
        "blocks": None if found.blocks is None else _text(found.blocks.astype(np.int32)),
        "errors": [found.before, found.after],
        "bias": None if found.bias is None else _text(found.bias),
    }


def _unpacked(known: dict[str, Any]) -> Rounded:
    shape = tuple(known["shape"])
    codes = _array(known["codes"], np.int8).reshape(shape).astype(np.float64)
    blocks = None if known.get("blocks") is None else _array(known["blocks"], np.int32).astype(np.intp)
    width = 1 if blocks is None else int(blocks.max()) + 1
    scale = _array(known["scale"], np.float64).reshape(shape[0], -1, width)
    bias = None if known["bias"] is None else _array(known["bias"], np.float32)
    before, after = known["errors"]
    return Rounded(codes, scale, before, after, bias, blocks)


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array(text: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).copy()
