"""Modality table, canvas, randomness, units and errors: what every other layer stands on."""
