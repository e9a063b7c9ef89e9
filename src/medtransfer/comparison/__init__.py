"""Finished runs -> findings: rows, contrasts, answers, claims, published numbers."""
