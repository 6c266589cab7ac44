"""The parts of the simulation stage: tasks, actors, and the driver that keeps them busy."""
