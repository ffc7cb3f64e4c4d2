"""Who is told of what: ``alerts`` and ``trend`` (decisions), ``watch`` (what goes on for minutes), ``tell`` (deeds)."""
