"""Who is present, on all nodes."""
