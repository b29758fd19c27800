"""`python -m runner` is `fluxdrop`."""

from runner.cli import program

if __name__ == "__main__":
    program()
