"""What the store says: keys, pointers, scan records, dead letters, and where every slide stands."""
