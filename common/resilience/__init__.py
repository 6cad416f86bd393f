"""What keeps one sick peer from making others sick: breaker, retry budget, bulkhead, idempotency."""
