"""What runs on MainPC alone."""
