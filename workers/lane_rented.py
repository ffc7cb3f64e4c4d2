"""`dramatiq workers.lane_rented`: this node serves the lane rented."""

from workers.shell import serve

broker = serve("rented")
