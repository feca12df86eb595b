"""From a float graph and a profile to a QDQ graph: resolve, observe, encode, select, insert, one file a stage."""
