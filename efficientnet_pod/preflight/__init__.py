"""Answers before a cent is spent: does a recipe fit a machine, how fast is it there, what does it cost."""
