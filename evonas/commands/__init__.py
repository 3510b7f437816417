"""Behind the command line, not on the way of a run."""
