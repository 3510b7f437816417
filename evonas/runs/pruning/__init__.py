"""Early stopping within a trial: one file per rule."""
