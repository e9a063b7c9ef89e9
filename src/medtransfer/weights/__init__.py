"""A published file -> `data/weights` with a receipt: names, where files are, how their keys are read."""
