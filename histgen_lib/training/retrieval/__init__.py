"""Training the retrieval network (FGCR) of a model folder, and what it is compared with."""
