"""Prepared data and an initialization -> a trained network. Knows no tracker, no Ray, no Optuna."""
