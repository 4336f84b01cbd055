"""A pretraining while it runs: the loop, its data, evaluation, metrics, and what watches over it."""
