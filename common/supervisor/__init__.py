"""One per host: starts its processes in order, keeps them, and owns the leases on its cards."""
