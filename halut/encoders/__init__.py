"""Encoders of the table family.

An encoder is a file here with one decorated class; every file is imported, so that adding one is
writing it (and conf/halut/NAME.yaml). Outside this repository it is a plugin: see halut.plugins.
"""

from importlib import import_module
from pkgutil import iter_modules

from halut.encoders.base import (
    Encoder,
    as_answer,
    encoders,
    shared_prototypes,
)
from halut.encoders.lookup_table import LookupTable
from halut.ops.blocks import check_rows
from halut.prototypes.buckets import bucket_means

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Encoder",
    "LookupTable",
    "as_answer",
    "bucket_means",
    "check_rows",
    "encoders",
    "shared_prototypes",
]
