"""`dramatiq workers.lane_midtier`: this node serves the lane midtier."""

from workers.shell import serve

broker = serve("midtier")
