"""Who is present, on all nodes: the replicated state, how nodes keep it in step, and what clients are told."""
