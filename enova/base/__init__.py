"""The words every other folder uses: quantities, addresses, digests, positions, problems, errors."""
