"""Slow, obvious definitions that the operators are compared with."""
