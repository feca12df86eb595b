"""What a cost model may use: the calibrated network, its groups, models of it in any precision, and a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fewbits.analysis.cost import sizes_of
from fewbits.analysis.cost_layout import Layout, layout_of
from fewbits.errors import SpecError
from fewbits.quantization.groups import Group, find_groups, profile_of
from fewbits.quantization.overflow import half_overflows
from fewbits.quantization.profile import Profile
from fewbits.quantization.resolve import resolve
from fewbits.runtime.data.types import Array
from fewbits.runtime.store import Store
from fewbits.spec.precision import Precision
from fewbits.workflow.calibrate import Calibration
from fewbits.workflow.quantized import Quantized, quantize_calibrated
from fewbits.workflow.stages import Stages


@dataclass(frozen=True, eq=False)
class CostContext:
    """What a cost model may use.

    Attributes:
        calibration: of the float model; options say how models run here.
        store: of the run: what was measured before is taken from there.
        stages: told of what takes long.
    """

    calibration: Calibration
    store: Store = field(default_factory=Store)
    stages: Stages = field(default_factory=Stages)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The network's groups."""
        return find_groups(self.calibration.model.graph, self.calibration.target)

    @property
    def feeds(self) -> Mapping[str, Array]:
        """The first sample."""
        return self.calibration.subject.first_feeds

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Open dimension -> size, as the first sample has it."""
        return sizes_of(self.calibration.model, self.feeds)

    def layout(self, precisions: Sequence[str]) -> Layout:
        """Return the network as it is in each of some precisions.

        Raises:
            SpecError: a precision is unknown, the target does not have it, or a group can run in none of them.
        """
        names = dict.fromkeys(str(Precision.parse(name)) for name in precisions)
        if not names:
            raise SpecError("No precision was named: write those that groups may take, such as w8a8 and w8a16.")
        model, target = self.calibration.model, self.calibration.target
        refused = half_overflows(model.graph, self.calibration.statistics)
        plans = {name: resolve(model, Profile.parse(name), target, half_refused=refused) for name in names}
        layout = layout_of(model, self.groups, plans, self.sizes)
        for group in self.groups:
            if not layout.precisions(group):
                reason = next(iter(plans.values())).nodes[group.name].reason
                raise SpecError(
                    f"Group {group.name!r} can run in none of {', '.join(names)} ({reason}): add a precision, such as "
                    f"w8a16."
                )
        return layout

    def make(self, profile: Mapping[str, str]) -> Quantized:
        """Return the model in a profile (group name -> precision) with the ranges that are found quickest.

        What a model costs does not depend on its ranges.

        Raises:
            SpecError: the profile cannot be used on this model and target.
        """
        chosen = {group: Precision.parse(profile[group.name]) for group in self.groups if group.name in profile}
        return quantize_calibrated(
            self.calibration, profile_of(chosen), ranges="minmax", weight_ranges="absmax", bias_correction=False,
            pinned={},
        )  # fmt: skip
