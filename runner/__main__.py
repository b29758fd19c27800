"""`python -m runner` is `fluxdrop`."""

from runner.launch import program

if __name__ == "__main__":
    program()
