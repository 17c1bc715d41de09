"""report.html: one file that shows records and run folders, without a network."""
