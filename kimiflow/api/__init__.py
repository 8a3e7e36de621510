"""The API behind an account: what kimiflow asks of it, and what its replies say."""
