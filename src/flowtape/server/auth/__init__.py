"""Keys, plans, quotas and counts of use."""
