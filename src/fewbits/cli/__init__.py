"""The command line: parses, calls the verb of the same name, prints. One file per group of commands."""

from fewbits.cli.app import app, main

__all__ = ["app", "main"]
