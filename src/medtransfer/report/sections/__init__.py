"""Findings -> the parts of the report."""
