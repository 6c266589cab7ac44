"""What a run would do, and what can be checked before it."""
