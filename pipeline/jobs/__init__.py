"""Parts of submission: which jobs, and what is refused."""
