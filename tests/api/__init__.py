"""kimiflow in code, against the sandbox over real sockets."""
