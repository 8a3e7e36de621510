"""Many workers on one store: their clocks, their connections, their upgrades."""
