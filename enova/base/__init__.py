"""The shared words: quantities, addresses, digests, positions, problems, errors."""
