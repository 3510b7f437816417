"""What can be built: one file per search space, the contract in ``base.py``."""
