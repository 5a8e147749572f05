"""Fine-tuning: a network begins with the weights of a checkpoint."""
