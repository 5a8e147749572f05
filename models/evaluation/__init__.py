"""Evaluation of checkpoints: several views per image, averages of networks, figures, and a report with pictures."""
