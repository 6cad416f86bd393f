"""ErrorBus: what goes wrong anywhere, counted in groups that are the same after every restart."""
