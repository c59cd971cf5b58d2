"""`python -m ibpc`: the command line, as `torchrun -m ibpc` starts it in every process."""

from ibpc.cli import main

if __name__ == "__main__":
    main()
