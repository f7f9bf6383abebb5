"""What should run, how that differs from what runs, and which steps close the gap."""
