"""Containers of published weights -> tensors; nothing in a file can run code."""
