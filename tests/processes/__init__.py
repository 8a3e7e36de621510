"""Real worker processes, killed and stopped and cut off; the sandbox's log is the judge."""
