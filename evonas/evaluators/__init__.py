"""How good an architecture is: one file per evaluation strategy, the contract in ``base.py``."""
