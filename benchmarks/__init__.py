"""One runnable module per claim about performance: ``python -m benchmarks.NAME --help``."""
