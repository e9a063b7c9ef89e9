"""Which pre-trained weights should a medical imaging model start from? A benchmark that answers with evidence."""

PROTOCOL_VERSION = 1
"""Raised by hand whenever a change alters the numbers of a run: it is part of every run's identity."""
