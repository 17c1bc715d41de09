"""Figures about a network: cost, errors, sensitivity."""
