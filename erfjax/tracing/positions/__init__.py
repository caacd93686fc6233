"""Where positions go: exact sets of indices, how an equation reads its operands, and the walk backwards from a unit."""
