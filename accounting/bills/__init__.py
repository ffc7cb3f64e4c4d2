"""What others say that it cost.

``usage_files`` (what providers say), ``booked`` (what the ledger says), ``reconcile`` (why they differ),
``reprice`` (past calls at other prices), ``second_book`` (our prices against others').
"""
