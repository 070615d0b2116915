"""What a draft report is rendered to."""
