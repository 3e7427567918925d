"""What is asked for: a config, typed and checked, and every number that follows."""
