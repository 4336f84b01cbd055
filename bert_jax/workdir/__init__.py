"""The files of a run: checkpoints, digests, history, metrics; and whether a run can be resumed from them."""
