"""HTTP: routes, keys, plans and quotas, errors."""
