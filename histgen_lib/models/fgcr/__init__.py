"""FGCR: fine-grained cross-modal retrieval over slides and reports (Medical Image Analysis 2024)."""
