"""An answer for an observation: draws, their summary, and checks of the model and of the posterior there."""
