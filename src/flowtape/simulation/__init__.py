"""A simulated market, as a live feed and as files."""
