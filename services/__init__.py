"""The services of the stream, one folder each, in the table `services.table`. None imports another."""
