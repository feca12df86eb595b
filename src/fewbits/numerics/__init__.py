"""The arithmetic, numpy only: the affine grid, streaming histograms, range estimators, weight grids and metrics.

Arrays and a QuantSpec come in, encodings, ranges and figures go out; nothing here knows of graphs, files or runtimes.
Read affine first (the one owner of quantize and dequantize), then histogram, ranges, weights and metrics.
"""
