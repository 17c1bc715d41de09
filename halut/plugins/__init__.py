"""Plugins: encoders, codecs, models and data sets that live outside halut.

A plugin is a module or a .py file that registers what it brings when it is imported. It is named
on the command line (`plugins=[my_module,./mine.py]`), in Python
(`halut.load_plugins("./mine.py")`), or announced by an installed package
(`[project.entry-points."halut.plugins"]`).
"""

from halut.plugins.loading import load_plugins

__all__ = ["load_plugins"]
