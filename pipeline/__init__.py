"""Stages from a configuration to a tracked posterior; the only package that knows the others."""
