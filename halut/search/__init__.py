"""Which site gets what, under a budget: options scored once, an exact solver, plans verified."""
