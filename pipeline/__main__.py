"""`python -m pipeline` is the `sbiflow` command."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
