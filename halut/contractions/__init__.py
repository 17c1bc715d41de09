"""Contractions: how the codes of activations and weight are multiplied.

A contraction is a file here with one decorated class; every file is imported.
"""

from importlib import import_module
from pkgutil import iter_modules

from halut.contractions.base import Contraction, contractions

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Contraction", "contractions"]
