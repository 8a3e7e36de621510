"""What the scheduler is made of, each part knowing nothing of the others."""
