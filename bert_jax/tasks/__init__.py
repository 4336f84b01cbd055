"""Downstream tasks: labelled examples -> rows of token ids -> predictions of the logits -> scores."""
