"""Which configuration meets the goals at least cost: candidates, limits, score, explanation."""
