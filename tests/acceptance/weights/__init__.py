"""Weights: ResNets by name, and every file as people have it."""
