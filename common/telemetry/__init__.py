"""Metrics, latency quantiles, and logs as JSON lines."""
