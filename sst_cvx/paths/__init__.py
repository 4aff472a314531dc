"""Ways to X_t(u), one folder each, all of one shape."""
