"""The command line, run as people run it: real processes against the sandbox."""
