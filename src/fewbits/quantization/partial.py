"""A network of which only a part is quantized: the encodings of the whole, under a plan that quantizes less."""

from collections.abc import Collection
from dataclasses import replace

from fewbits.quantization.encode import Encoded
from fewbits.spec.plan import Plan, Role


def encoded_alike(whole: Plan, encoded: Encoded, plan: Plan) -> Encoded:
    """Return the encodings of `plan`, each the one that the same reader or writer has in the whole network.

    Nothing is derived anew, so that a part carries exactly the noise that it carries in the whole.

    Args:
        whole: the plan of the network in one precision.
        encoded: its encodings.
        plan: of the same graph and target, for a profile of that precision and float32.
    """
    keys: dict[str, str] = {}
    for place, key in plan.inputs.items():
        keys.setdefault(key, whole.inputs[place])
    for tensor, key in plan.outputs.items():
        keys.setdefault(key, whole.outputs[tensor])
    return Encoded(
        {key: encoded.encodings[keys[key]] for key in plan.grids},
        {key: encoded.widened[keys[key]] for key in plan.grids if keys[key] in encoded.widened},
        {key: encoded.biases[keys[key]] for key in plan.grids if keys[key] in encoded.biases},
    )


def restricted(plan: Plan, roles: Collection[Role]) -> Plan:
    """Return the plan with only the grids of some roles; all other tensors stay as they are.

    It can be inserted, with encodings of the plan that it comes from; it cannot be encoded, since a bias without its
    input has no scale to follow.

    Args:
        plan: of integer precisions; what runs in fp16 has no grids to choose from.
        roles: those to keep.
    """
    kept = {key: grid for key, grid in plan.grids.items() if grid.role in roles}
    grids = {key: replace(grid, shares=grid.shares if grid.shares in kept else None) for key, grid in kept.items()}
    return replace(
        plan,
        grids=grids,
        inputs={place: key for place, key in plan.inputs.items() if key in grids},
        outputs={tensor: key for tensor, key in plan.outputs.items() if key in grids},
    )
