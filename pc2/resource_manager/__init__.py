"""ResourceManager: plans leases over all hosts' cards; the cards' supervisors admit them."""
