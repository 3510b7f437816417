"""What to try next: one file per search strategy, the contract in ``base.py``."""
