"""Networks taken out of this library: targets that write files, each verified by running them."""
