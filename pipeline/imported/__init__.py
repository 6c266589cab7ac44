"""Import of simulations that were made elsewhere."""
