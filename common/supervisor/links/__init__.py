"""What joins this host to others: whose keys are trusted, who was invited, and how the links to the other supervisors are."""
