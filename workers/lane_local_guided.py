"""`dramatiq workers.lane_local_guided`: this node serves the lane local-guided."""

from workers.shell import serve

broker = serve("local-guided")
