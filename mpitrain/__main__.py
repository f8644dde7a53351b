"""`python -m mpitrain`: the command line."""

from mpitrain.cli import main

if __name__ == "__main__":
    main()
