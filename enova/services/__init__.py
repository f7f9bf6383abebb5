"""Processes that stay: the reconciler and the emulator."""
