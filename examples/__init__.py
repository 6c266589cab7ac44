"""Programs that show what the parts can do together."""
