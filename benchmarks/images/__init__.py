"""Bayesian denoising of images: what each network and method reaches, and what it costs."""
