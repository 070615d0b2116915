"""A day of the stream, event by event: the same queues, partitions, workers and pods, without the work."""
