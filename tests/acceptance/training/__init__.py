"""Training: fine-tuning, recipes, several processes, input, and ensembles."""
