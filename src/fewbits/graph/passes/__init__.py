"""Graph passes: one per file; each changes its private model in place and says what it did and what it declined."""
