"""`python -m warmstart`, and the console script."""

from warmstart.cli.main import main

if __name__ == "__main__":
    main()
