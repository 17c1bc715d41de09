"""Search by trials: a sampler chooses options, train() runs them, the best by validation win."""
