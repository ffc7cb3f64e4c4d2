"""`python -m laneway` is `laneway`."""

from laneway.cli import main

main()
