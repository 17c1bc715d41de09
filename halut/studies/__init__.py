"""The verbs' programs that measure: sensitivity, sweeps, convergence, cost."""
