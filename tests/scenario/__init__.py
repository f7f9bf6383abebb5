"""Scenarios: what a user does with the command line, on real processes, under load."""
