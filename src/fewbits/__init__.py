"""fewbits finds the fewest bits a trained network can run in without losing the accuracy its owner needs."""

__version__ = "0.1.0"
