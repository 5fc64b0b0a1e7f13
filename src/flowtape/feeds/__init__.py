"""Live sources → prints. One module a source; the simulated market is one of them."""
