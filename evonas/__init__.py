"""evonas: neural architecture search by evolution and its rivals."""

__version__ = "0.1.0"
