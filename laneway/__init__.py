"""Laneway: what producers touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laneway.client import Budget, Client, Handle, Result

__all__ = ["Budget", "Client", "Handle", "Result"]


def __getattr__(name: str) -> object:
    """Loaded at first use, as the command line's help must not wait for it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'laneway' has no attribute {name!r}")
    from laneway import client

    return getattr(client, name)
