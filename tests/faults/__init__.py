"""Whether clients miss anything while connections, workers and Redis fail."""
