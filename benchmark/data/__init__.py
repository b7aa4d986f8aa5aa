"""From raw MIMIC files to memory-mapped task data sets, and from those to batches."""
