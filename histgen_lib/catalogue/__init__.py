"""What the store says: its keys and records, what is wrong with them, and where every slide stands."""
