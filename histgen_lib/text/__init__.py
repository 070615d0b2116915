"""Reports as text: their synoptic lines, their sentences, and the tokenizers that turn them into ids."""
