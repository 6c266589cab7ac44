"""Studies: many trainings over shared simulations, by one command."""
