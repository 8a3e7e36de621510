"""Stores: the contract in `base`, and those that come with kimiflow."""
