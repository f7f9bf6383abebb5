"""Event simulation of replicas and small fleets in virtual time."""
