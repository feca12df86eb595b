"""What each part of the default setting is worth: scores with one part switched off at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pipeline
import record
from fewbits.numerics.ranges import MinMax, Mse
from fewbits.quantization.encode import Ranges
from fewbits.runtime.session import RunOptions, open_session
from networks import NETWORKS

PRECISIONS = ("w8a8", "w8a16", "w4a8")
BASE = Ranges(activations=Mse())


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting: how it differs from the base."""

    name: str
    change: Callable[[Ranges], Ranges] = lambda ranges: ranges
    sees_masks: bool = True


VARIANTS = (
    Variant("base (mse activations, searched weights, corrected biases)"),
    Variant("absmax weights", lambda r: replace(r, weights="absmax")),
    Variant("biases not corrected", lambda r: replace(r, correct_biases=False)),
    Variant("absmax weights, biases not corrected", lambda r: replace(r, weights="absmax", correct_biases=False)),
    Variant("minmax activations", lambda r: replace(r, activations=MinMax())),
    Variant("softmax inputs as they are", sees_masks=False),
)


def main() -> None:
    """Print and store the table."""
    parser = record.parser(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, default=list(PRECISIONS))
    args = parser.parse_args()
    found = record.start("ablation: one part of the default setting switched off at a time")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in args.networks:
        results[name] = scores(name, args.precisions, args.threads)
        rows = [(v, *(f"{s[p]:.3f}" for p in args.precisions)) for v, s in results[name].items()]
        print(name)
        record.table(("setting", *args.precisions), rows)
    record.save("ablation", args, found, results)


def scores(name: str, precisions: list[str], threads: int) -> dict[str, dict[str, float]]:
    """Return variant -> precision -> score of one network, calibrated once (twice where it has softmax inputs)."""
    network, options = NETWORKS[name], RunOptions(threads=threads)
    observer = pipeline.open_observer(network, threads=threads)
    plain = replace(observer, watch=replace(observer.watch, softmax_axes={}))
    statistics = observer.observe(pipeline.batches(network.calibration()))
    found: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        if not variant.sees_masks and not observer.watch.softmax_axes:
            continue
        seen = statistics if variant.sees_masks else plain.observe(pipeline.batches(network.calibration()))
        ranges = variant.change(BASE)
        found[variant.name] = {
            p: network.score(open_session(observer.build(seen, p, ranges), options=options)) for p in precisions
        }
    return found


if __name__ == "__main__":
    main()
