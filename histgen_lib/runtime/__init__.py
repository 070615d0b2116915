"""What any process of a service has: stopping, backing off, waiting, health, a web server."""
