"""Step 5 in a loop of one's own: the digits example at w4a4 with labels, and channel statistics re-estimated.

The loop is that of examples/qat/train_w4a4.py; it needs scikit-learn for the training images. Re-estimation is tried on
both digits rows, and on ResNet-20 (CIFAR-10) at w4a4 before training and after a short one without labels.
"""

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fewbits
import record
from networks import RESNET20

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "qat"))
from digits_data import CALIB, EVAL, PROFILE, Loader, trained_net, training_images
from train_w4a4 import EPOCHS, fit

TARGET = "qnn-htp-v73"
BATCHES = 10  # of the calibration data, that statistics are taken from


def main() -> None:
    parser = record.parser(__doc__ or "")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--add", action="store_true", help="keep rows that are recorded and not measured again")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the digits example")
    parser.add_argument("--steps", type=int, default=200, help="of ResNet-20, without labels")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = record.start(f"qat in a loop: {args.threads} threads")
    path = args.results / "qat_labels.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if args.add and path.exists() else {}
    for name in args.case:
        torch.manual_seed(0)
        results[name] = {**CASES[name](args), "measured": found["date"], "commit": found["commit"]}
        show(name, results[name])
        record.save("qat_labels", args, found, results)


def digits(args: Any, profile: dict[str, str] | None) -> dict[str, Any]:
    """Return scores before and after training on labels, each without and with re-estimation."""
    net, loader = trained_net(), Loader(*training_images(None))
    options = fewbits.RunOptions(threads=args.threads)
    module = fewbits.qat.from_torch(
        net, torch.zeros(2, 1, 8, 8), data=CALIB, precision="w4a4", profile=profile, target=TARGET, run_options=options
    )
    batches = list(torch.from_numpy(np.load(CALIB)["image"]).split(32))[:BATCHES]
    scored = {"metric": "top1", "eval_data": EVAL}
    rows: dict[str, Any] = {"epochs": args.epochs, **both(module, batches, scored, "start")}
    begin = time.perf_counter()
    trained = fit(module, net, loader, args.epochs)
    return {**rows, "train_s": time.perf_counter() - begin, **both(trained, batches, scored, "trained")}


def resnet(args: Any) -> dict[str, Any]:
    """Return the same of ResNet-20, trained on what the float network gives."""
    module = fewbits.qat.trainable(
        RESNET20.path, data=lambda: RESNET20.calibration(1000), precision="w4a4", target=TARGET,
        run_options=fewbits.RunOptions(threads=args.threads),
    )  # fmt: skip
    (name,) = module.graph.input_names
    images = torch.from_numpy(np.concatenate([feeds[name] for feeds in RESNET20.calibration(1000)]))
    batches = list(images.split(32))
    scored = {"metric": RESNET20.score, "higher_is_better": RESNET20.higher_is_better}
    rows: dict[str, Any] = {"steps": args.steps, **both(module, batches[:BATCHES], scored, "start")}
    optimizer, teacher = torch.optim.Adam(module.parameter_groups(2e-4, scale_lr=2e-3)), module.reference
    begin = time.perf_counter()
    module.train()
    for x in itertools.islice(itertools.cycle(batches), args.steps):
        with torch.no_grad():
            (wanted,) = teacher({name: x}).values()
        (found,) = module(x).values()
        loss = (found - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {**rows, "train_s": time.perf_counter() - begin, **both(module, batches[:BATCHES], scored, "trained")}


def both(module: Any, batches: list[torch.Tensor], scored: dict[str, Any], name: str) -> dict[str, float]:
    """Return the score of the exported file as the module is, and with re-estimated statistics; the module stays."""
    state = {key: value.clone() for key, value in module.state_dict().items()}
    rows = {}
    for suffix in ("", "_reestimated"):
        with tempfile.TemporaryDirectory() as folder:
            result = module.eval().export(Path(folder) / "out", **scored)
        rows[f"{name}{suffix}"], rows["float"] = result.score.value, result.float_score.value
        if not suffix:
            rows[f"{name}_means_off"] = max(module.reestimate(batches).changed.values())
    module.load_state_dict(state)
    return rows


def show(name: str, row: dict[str, Any]) -> None:
    print(f"\n{name}")
    columns = ("float", "start", "start_reestimated", "trained", "trained_reestimated", "train_s")
    record.table([column.replace("_", " ") for column in columns], [[row[column] for column in columns]])


CASES = {
    "digits w4a4, ends wider": lambda args: digits(args, PROFILE),
    "resnet20 w4a4": resnet,
    "digits w4a4 everywhere": lambda args: digits(args, None),
}


if __name__ == "__main__":
    main()
