"""Errors and metric points at their sender: spooled on disk, and delivered once to ErrorBus and ObservabilityHub."""
