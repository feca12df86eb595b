"""The section of docs/results.md on models above 2 GB."""

from page import load, table


def large() -> str:
    """Return the peak memory of every verb over the size of the weights."""
    results, when = load("large")
    networks = results["networks"]
    sizes = " and ".join(f"{name} ({one['weights_bytes'] / 1e9:.2f} GB)" for name, one in networks.items())
    text = (
        f"## Large models\n\nPeak memory of each verb, in a process of its own, over the size of the weights (`benchmarks/large.py`; generated "
        f"networks: {sizes}; random weights, minmax ranges). Anonymous is what the system cannot take back; resident counts mapped files, too, "
        f"each page once. The limit for resident is {results['limit']:g}. The machine did other work, and the run stood still for a while, so seconds are upper figures.\n\n"
    )
    rows: list[tuple[object, ...]] = [
        (name, verb, *(f"{taken[key]:.2f}" for key in ("anonymous", "resident")), f"{taken['seconds']:.0f}")
        for name, one in networks.items()
        for verb, taken in one["verbs"].items()
    ]
    return text + table(("network", "verb", "anonymous", "resident", "s"), rows) + "\n" + when
