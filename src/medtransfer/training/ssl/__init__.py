"""Self-supervised objectives: methods, their views, and a probe of what features are worth."""
