"""`dramatiq accounting.node`: this node keeps the ledger."""

from accounting.actor import serve

broker = serve()
