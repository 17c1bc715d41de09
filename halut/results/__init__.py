"""Measurements of all verbs in one store, and what reads them."""
