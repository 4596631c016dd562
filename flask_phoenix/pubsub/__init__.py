"""Who hears a broadcast, here and on other nodes."""
