"""What should happen when numbers move. State comes in and goes out as a value."""
