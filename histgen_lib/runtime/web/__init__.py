"""HTTP for any service: a server that slow clients cannot exhaust, who is let in, and the health pages."""
