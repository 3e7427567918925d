"""What other programs call the variables of our networks."""
