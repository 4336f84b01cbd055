"""What a run did and what a model does: reports, comparisons, scores, explanations."""
