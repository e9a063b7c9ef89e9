"""Findings -> page, tables, figures."""
