"""What the Makefile runs to judge and prepare the repository; no part of the product."""
