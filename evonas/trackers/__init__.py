"""Who is told: one file per tracker, the contract in ``base.py``."""
