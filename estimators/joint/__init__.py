"""One network for the joint distribution of parameters and outputs, and for its conditionals."""
