"""What was asked for: YAML text in, a validated ``Spec`` or every problem at once out."""
