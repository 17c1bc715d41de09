"""`halut bench --device cuda`: clocks, ceilings and methods of a GPU."""
