"""Every store that comes with kimiflow keeps the contract."""

from .contract import StoreContract


class TestContract(StoreContract):
    """Runs it against each."""
