"""Codecs: number formats, binary bases and pruning masks, for weights and for activations.

A codec is a file here with one decorated class; every file is imported, so that adding one is
writing it (and conf/halut/NAME.yaml).
"""

from importlib import import_module
from pkgutil import iter_modules

from halut.codecs.base import Codec, Coded, Layout, codecs
from halut.codecs.straight_through import straight_through

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Codec", "Coded", "Layout", "codecs", "straight_through"]
