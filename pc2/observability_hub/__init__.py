"""ObservabilityHub: health verdicts of processes, hosts and the link between them, and the history of metrics."""
