"""Replies that no server should send, to the client that applications use, over real sockets.

``pytest tests/fuzz`` runs some thousands of them; ``KIMIFLOW_FUZZ_CASES`` or ``python -m tests.fuzz`` as many as one
likes.
"""
