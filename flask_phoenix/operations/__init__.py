"""What those who run an app ask of all its processes: signed requests, which go the way of broadcasts."""
