"""Fine-tuning: the rows of a task, runs on them, and GLUE."""
