"""The harness: data, tasks, training, evaluation, runs and tables."""
