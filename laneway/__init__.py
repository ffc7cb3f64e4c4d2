"""Laneway: what producers touch."""

from laneway.client import Budget, Client, Handle, Result

__all__ = ["Budget", "Client", "Handle", "Result"]
