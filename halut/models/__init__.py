"""Networks by name: the local ones of this folder, timm's and torchvision's.

A local network is a file here with one decorated builder; every file is imported, so that adding
one is writing it.
"""

from importlib import import_module
from pkgutil import iter_modules

from halut.models.builders import models

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["models"]
