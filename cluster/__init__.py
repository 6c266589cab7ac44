"""Where Ray comes from: one backend, one file."""
