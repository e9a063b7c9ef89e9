"""Synthetic images in the official raw layouts: the demo's data and, tiny, the tests'."""
