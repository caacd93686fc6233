"""What a measured field is made of: variance of the weights, coherence of the weights, dependence of gates."""

from erfjax.accounts.reading import account
from erfjax.accounts.result import Account

__all__ = ["Account", "account"]
