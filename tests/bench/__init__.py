"""How fast, in ratios: kimiflow beside bare HTTP clients, in one run. ``python -m tests.bench --help``."""
