"""How fast and how large: memory ledger, step times, and estimates built on them."""
