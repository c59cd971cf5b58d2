"""`python -m ibpc` is the command line."""

from ibpc.cli import main

if __name__ == "__main__":
    main()
