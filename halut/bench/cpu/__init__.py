"""What is timed on a CPU, beside what: a file for every kind of operation."""
