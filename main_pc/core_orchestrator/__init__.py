"""CoreOrchestrator: who is where, requests in flight, and the twin."""
