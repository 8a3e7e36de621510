"""The core, floor by floor: what each part promises, shown by example.

Read in this order: ``machine`` (which steps there are), ``pacing`` and ``advance`` (what a step does), ``wire`` (how
replies become events), ``client`` (how they come off a socket), ``vault`` and ``keys`` (how secrets rest), then the
rest.
"""
