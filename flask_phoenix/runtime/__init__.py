"""One process at work: connections, channels, and what they share."""
