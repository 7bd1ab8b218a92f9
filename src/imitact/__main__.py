"""`python -m imitact`, which torchrun needs: the same as the command `imitact`."""

from imitact.cli.main import main

if __name__ == "__main__":
    main()
