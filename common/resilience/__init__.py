"""What keeps one sick peer from making others sick: breaker, retry budget, rate limit, bulkhead, idempotency."""
