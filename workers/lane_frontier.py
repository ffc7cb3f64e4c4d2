"""`dramatiq workers.lane_frontier`: this node serves the lane frontier."""

from workers.shell import serve

broker = serve("frontier")
