"""Training: from a store to a posterior."""
