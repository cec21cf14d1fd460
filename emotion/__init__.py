"""What the scripts stand on: command line, run directory, training loop, models, statistics."""
