"""`python -m pellucid.cli`: the command of the interpreter at hand."""

from pellucid.cli import main

if __name__ == "__main__":
    main()
