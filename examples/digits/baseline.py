"""Quantize the digits example with onnxruntime's own quantizer and print what is left of its top-1.

One setting for the whole network: symmetric int8 weights per output channel, and activations
in unsigned 8 or 16 bits over the least and greatest value seen in the calibration data.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from train import HERE, Floats, score_file

STEP = 100


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration images over in batches."""

    def __init__(self, images: Floats) -> None:
        self.batches: Iterator[Floats] = iter([images[at : at + STEP] for at in range(0, len(images), STEP)])

    def get_next(self) -> dict[str, Floats] | None:
        """Give the next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def quantize(prepared: Path, quantized: Path, images: Floats, activation: QuantType) -> None:
    """Quantize every operator that onnxruntime can."""
    quantize_static(
        prepared,
        quantized,
        Reader(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=activation,
        calibrate_method=CalibrationMethod.MinMax,
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE, help="folder of the files (default: beside this script)")
    folder: Path = parser.parse_args().folder
    with np.load(folder / "calib.npz", allow_pickle=False) as arrays:
        images = arrays["image"]
    print(f"float {score_file(folder / 'digits.onnx', folder / 'eval.npz'):.2f} %")
    with tempfile.TemporaryDirectory() as work:
        prepared, quantized = Path(work, "prepared.onnx"), Path(work, "quantized.onnx")
        quant_pre_process(folder / "digits.onnx", prepared, skip_symbolic_shape=True)
        for name, activation in (("w8a8 ", QuantType.QUInt8), ("w8a16", QuantType.QUInt16)):
            quantize(prepared, quantized, images, activation)
            print(f"{name} {score_file(quantized, folder / 'eval.npz'):.2f} %")


if __name__ == "__main__":
    main()
