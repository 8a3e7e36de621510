"""HTTP, as little of it as the protocol here needs, and as fast as bare asyncio allows."""
