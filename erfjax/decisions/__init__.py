"""What people decide from a theoretical field: is it causal, how do tiles overlap, is the field large enough.

Everything here is read off the hull walk, so it holds for every input of the shape asked about, not for those that were tried.
"""
