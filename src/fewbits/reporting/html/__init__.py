"""The report: one self-contained HTML page made from the records of runs.

Reading order: sources (which records there are), verdict, tables (scores), figures (what the script draws), page.
"""
