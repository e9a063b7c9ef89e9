"""Continual pre-training: the links of a chain, what their images share with a target, and the verb."""
