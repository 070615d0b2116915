"""From a bag to its draft report."""
