"""What every service has, worker or web: stopping, waiting, loops, liveness, metrics and an HTTP server."""
