"""`python -m erfjax` is the same command as `erfjax`."""

from erfjax.cli import main

if __name__ == "__main__":
    main()
