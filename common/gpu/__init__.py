"""Cards: NVML through its own binding, and folders that stand for cards where there are none."""
