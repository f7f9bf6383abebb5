"""What hardware and settings would satisfy it: catalog, performance, simulation, sizing."""
