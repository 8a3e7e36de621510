"""Stores: the contract that every one of them keeps, and what is particular to each."""
