"""Every error that a user can cause, one tree.

    FewbitsError                a sentence for the user; the command line prints it and exits with code 2
    ├── SpecError               an option, precision, grid, target or profile that cannot be
    ├── ModelError              a model file that cannot be read, checked, converted or run
    │   ├── RefusedError            a model that the device's compiler does not take
    │   └── MissingOperatorError    an operator that the torch executor lacks
    ├── DataError               data that cannot be read or does not fit the model
    ├── MetricError             a score that cannot be computed
    ├── HubError                Qualcomm AI Hub cannot be used, or a job there failed
    ├── OutputError             a result that cannot be written
    └── MissingExtraError       an optional dependency that is not installed

Each message names the thing, the rule, the value and the way out.
"""


class FewbitsError(Exception):
    """Base of every error that the user can mend; its message is one clear sentence."""


class SpecError(FewbitsError):
    """An option, precision, grid, target or profile that cannot be."""


class ModelError(FewbitsError):
    """A model that cannot be read, checked, converted or run."""


class RefusedError(ModelError):
    """A model that the device's compiler does not take.

    Attributes:
        nodes: (node, operator) that it refused, where it named them.
    """

    def __init__(self, message: str, nodes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.nodes = nodes


class MissingOperatorError(ModelError):
    """An operator that the torch executor lacks: what runs in onnxruntime alone can do without it."""


class DataError(FewbitsError):
    """Data that cannot be read or does not fit the model."""


class MetricError(FewbitsError):
    """A score that cannot be computed."""


class HubError(FewbitsError):
    """Qualcomm AI Hub cannot be used, or a job there failed."""


class OutputError(FewbitsError):
    """A result that cannot be written."""


class MissingExtraError(FewbitsError):
    """An optional dependency that is not installed; the message names the extra."""
