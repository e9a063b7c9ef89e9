"""A published file -> `data/weights` with a receipt: names of initializations, where files are, how their keys are read."""
