"""A simulated market, as a feed and as a file."""
