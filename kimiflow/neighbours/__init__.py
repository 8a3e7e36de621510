"""Grants that come from other tools and go to them, and folders that those tools read."""
