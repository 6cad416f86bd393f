"""What runs on PC2 alone."""
