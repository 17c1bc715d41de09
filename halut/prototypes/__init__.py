"""Prototype learning: split trees, centroids, and tables refined by ridge regression."""
