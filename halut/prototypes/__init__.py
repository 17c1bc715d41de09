"""Learning: from rows to split trees, centroids, and the tables refined by ridge regression."""
