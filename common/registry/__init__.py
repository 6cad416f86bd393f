"""What CoreOrchestrator, which keeps the registry, and each supervisor, which keeps a copy, answer look-ups by."""
