"""`dramatiq workers.lane_local`: this node serves the lane local."""

from workers.shell import serve

broker = serve("local")
