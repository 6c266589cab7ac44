"""Free-form networks: what maps a noisy parameter, a summary of x and a time to a parameter."""
