"""What an app declares about its payloads, for those who write clients."""
