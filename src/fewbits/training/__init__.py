"""Quantization-aware training: a quantized model whose weights and scales are learned through its rounding."""
