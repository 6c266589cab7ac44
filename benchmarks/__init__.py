"""What sbiflow claims, measured: each module prints one JSON object."""
