"""Keeps the running system at the last applied spec: scales, heals, explains itself."""
