"""Long polling: frames over repeated HTTP requests."""
