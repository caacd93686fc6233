"""The closed form: how squared gradients pass each equation, and where that is exact."""
