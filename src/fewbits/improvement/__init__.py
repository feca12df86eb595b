"""Better weights and grids: improvers take a float graph and hand back one that quantizes better."""
