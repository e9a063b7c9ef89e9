"""Findings -> the figures of the report."""
