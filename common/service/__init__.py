"""The shell every service and agent stands in: loop, routes, onion, health, lifecycle, journal."""
