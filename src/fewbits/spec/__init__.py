"""What we want, as data: types and grids, precisions, plans, encodings, targets."""
