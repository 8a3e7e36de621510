"""The keys of the vault: where they come from, how they change, and what is left without them."""
