"""Measures: scores, and what a score lost. Nothing here changes a model."""
