"""Run a model once per batch, however often it is asked: for the float model, which every comparison needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fewbits.analysis.score_types import Predict
from fewbits.runtime.data.digest import add_arrays
from fewbits.runtime.data.types import Array

DEFAULT_CEILING_BYTES = 1 << 30


@dataclass(slots=True, eq=False)
class CachedPredict:
    """A `Predict` that remembers its outputs by the content of the feeds.

    Beyond the ceiling new outputs are returned but not kept: still right, only slower. Kept arrays are read-only.

    Attributes:
        predict: the model.
        ceiling_bytes: memory for outputs.
        stored_bytes: memory in use.
        runs: how often the model was really run.
    """

    predict: Predict
    ceiling_bytes: int = DEFAULT_CEILING_BYTES
    stored_bytes: int = field(default=0, init=False)
    runs: int = field(default=0, init=False)
    _stored: dict[bytes, dict[str, Array]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs for `feeds`."""
        digest = hashlib.blake2b(digest_size=20)
        add_arrays(digest, feeds)
        key = digest.digest()
        if key in self._stored:
            return dict(self._stored[key])
        self.runs += 1
        outputs = dict(self.predict(feeds))
        size = sum(array.nbytes for array in outputs.values())
        if self.stored_bytes + size <= self.ceiling_bytes:
            kept = {name: np.asarray(array).view() for name, array in outputs.items()}
            for array in kept.values():
                array.flags.writeable = False
            self._stored[key] = kept
            self.stored_bytes += size
            return dict(kept)
        return outputs
