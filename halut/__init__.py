"""halut: replace matrix products by look-up tables and cheaper formats, and retrain."""

__version__ = "0.1.0"
