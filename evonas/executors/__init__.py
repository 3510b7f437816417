"""Where trials run: one file per executor, the contract in ``base.py``."""
