"""Benchmarks: `python -m halut.bench`, or `halut bench`.

What it times stands in suites.py; a method is one way to do an operation (method.py); the methods
of one case (cpu/, cuda/, network.py) are checked against a reference, then timed in turns. main.py
starts one process per set of CPU instructions that oneDNN may use, measure.py runs in it.
"""
