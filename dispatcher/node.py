"""`dramatiq dispatcher.node`: this node dispatches."""

from dispatcher.actor import serve

broker = serve()
