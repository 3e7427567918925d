"""The pod: which devices there are, where they sit on the torus, and how arrays lie on them."""
