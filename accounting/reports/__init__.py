"""What `accounting.report` is made of: rows read in pieces, sums, exact ranks, and a decision a module."""
