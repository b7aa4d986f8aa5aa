"""What stored runs say beyond their scores: data frames for figures, from run folders and restored models.

Knows the runner, the training and the models; is known by reports and the command line only. It draws nothing.
"""
