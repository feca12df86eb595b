"""Keep torch's exporter from talking over the verb that uses it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what torch logs, prints and warns about its own code; what goes wrong still raises.

    The exporter logs missing packages that nobody asked for, prints whole graphs before it raises, and warns of
    deprecated names that torch itself uses.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            for category in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.9 to 2.11, of a .pt2 file
            yield
    finally:
        logging.disable(before)
